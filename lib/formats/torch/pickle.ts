import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'

/** A function or class that a pickle names. Its code is never loaded or called. */
export class PickleGlobal {
  constructor(
    readonly name: string,
    /** The reader's implementation of a call. A global without one may be named but not called. */
    readonly call?: (args: unknown[]) => unknown,
  ) {}
}

/**
 * The placeholder for an object that the reader does not build: none of its class's code runs, and anything that the
 * pickle appends or sets is dropped.
 */
export class InertObject {
  /** The attributes that the pickle gives it, for error messages. */
  state: unknown

  constructor(
    readonly className: string,
    /** Its constructor arguments, such as the number of an enumeration's member. */
    readonly args: readonly unknown[] = [],
    state?: unknown,
  ) {
    this.state = state
  }
}

export interface PickleOptions {
  /** The file, for messages. */
  source: string
  /** The global that `module.name` refers to. */
  findGlobal(name: string): PickleGlobal
  /** The object that a persistent id refers to. */
  loadPersistent(id: unknown): unknown
}

/** The bytes end before the pickle does. */
export class PickleCutShort extends CheckpointError {}

/**
 * Reads one pickle of protocol 2 to 5 and executes nothing: dictionaries become Maps, lists and tuples arrays, integers
 * numbers or (beyond 2⁵³) bigints, sets and objects of other classes InertObjects. Opcodes: docs.python.org,
 * pickletools. Time and memory are proportional to the bytes, because no opcode copies an existing object.
 * @returns the object, and the position after the pickle's last byte
 * @throws {CheckpointError} for an unknown opcode or object, with its name
 */
export function unpickle(bytes: Uint8Array, options: PickleOptions): { value: unknown; end: number } {
  return new Unpickler(bytes, options).run()
}

const MARK = Symbol('mark')

/** A tensor takes about 32 steps. The limit bounds the memory that a file of nothing but opcodes can take. */
const MAX_STEPS = 2_000_000

class Unpickler {
  readonly #data: DataView
  #at = 0
  readonly #stack: unknown[] = []
  readonly #memo = new Map<number, unknown>()

  constructor(
    private readonly bytes: Uint8Array,
    private readonly options: PickleOptions,
  ) {
    this.#data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  run(): { value: unknown; end: number } {
    for (let step = 0; step < MAX_STEPS; step++) {
      const opcode = this.#uint8()
      if (opcode === 0x2e) return { value: this.#pop(), end: this.#at } // STOP
      this.#execute(opcode)
    }
    throw this.#error(`has a pickle of more than ${MAX_STEPS} steps, which no list of tensors needs`)
  }

  #execute(opcode: number): void {
    switch (opcode) {
      case 0x80: // PROTO
        if (this.#uint8() > 5) throw this.#error('is a pickle of a protocol above 5')
        return
      case 0x95: // FRAME: a hint for readers of streams
        this.#skip(8)
        return
      case 0x28: // MARK
        this.#stack.push(MARK)
        return
      case 0x4e: // NONE
        this.#stack.push(null)
        return
      case 0x88: // NEWTRUE
      case 0x89: // NEWFALSE
        this.#stack.push(opcode === 0x88)
        return
      case 0x4a: // BININT
        this.#stack.push(this.#data.getInt32(this.#skip(4), true))
        return
      case 0x4b: // BININT1
        this.#stack.push(this.#uint8())
        return
      case 0x4d: // BININT2
        this.#stack.push(this.#data.getUint16(this.#skip(2), true))
        return
      case 0x8a: // LONG1
      case 0x8b: // LONG4
        this.#stack.push(this.#long(opcode === 0x8a ? this.#uint8() : this.#uint32()))
        return
      case 0x47: // BINFLOAT
        this.#stack.push(this.#data.getFloat64(this.#skip(8)))
        return
      case 0x8c: // SHORT_BINUNICODE
        this.#stack.push(this.#text(this.#uint8()))
        return
      case 0x58: // BINUNICODE
        this.#stack.push(this.#text(this.#uint32()))
        return
      case 0x8d: // BINUNICODE8
        this.#stack.push(this.#text(this.#uint64()))
        return
      case 0x55: // SHORT_BINSTRING
        this.#stack.push(this.#text(this.#uint8()))
        return
      case 0x54: // BINSTRING
        this.#stack.push(this.#text(this.#uint32()))
        return
      case 0x43: // SHORT_BINBYTES
        this.#stack.push(this.#slice(this.#uint8()))
        return
      case 0x42: // BINBYTES
        this.#stack.push(this.#slice(this.#uint32()))
        return
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        this.#stack.push(this.#slice(this.#uint64()))
        return
      case 0x7d: // EMPTY_DICT
        this.#stack.push(new Map())
        return
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        this.#stack.push([])
        return
      case 0x85: // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87: {
        const last = Array.from({ length: opcode - 0x84 }, () => this.#pop())
        this.#stack.push(last.reverse())
        return
      }
      case 0x74: // TUPLE
        this.#stack.push(this.#popToMark())
        return
      case 0x30: // POP
        this.#pop()
        return
      case 0x31: // POP_MARK
        this.#popToMark()
        return
      case 0x32: // DUP
        this.#stack.push(this.#top())
        return
      case 0x8f: // EMPTY_SET
        this.#stack.push(new InertObject('builtins.set'))
        return
      case 0x90: // ADDITEMS
        this.#append(this.#popToMark())
        return
      case 0x91: // FROZENSET
        this.#popToMark()
        this.#stack.push(new InertObject('builtins.frozenset'))
        return
      case 0x61: // APPEND
        this.#append([this.#pop()])
        return
      case 0x65: // APPENDS
        this.#append(this.#popToMark())
        return
      case 0x73: // SETITEM
        this.#setItems([this.#pop(), this.#pop()].reverse())
        return
      case 0x75: // SETITEMS
        this.#setItems(this.#popToMark())
        return
      case 0x63: // GLOBAL
        this.#stack.push(this.options.findGlobal(`${this.#line()}.${this.#line()}`))
        return
      case 0x93: {
        // STACK_GLOBAL
        const name = this.#popText()
        this.#stack.push(this.options.findGlobal(`${this.#popText()}.${name}`))
        return
      }
      case 0x52: // REDUCE
      case 0x81: // NEWOBJ
        this.#call()
        return
      case 0x92: // NEWOBJ_EX
        this.#pop() // keyword arguments
        this.#call()
        return
      case 0x62: // BUILD
        this.#build()
        return
      case 0x51: // BINPERSID
        this.#stack.push(this.options.loadPersistent(this.#pop()))
        return
      case 0x71: // BINPUT
        this.#memo.set(this.#uint8(), this.#top())
        return
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#uint32(), this.#top())
        return
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top())
        return
      case 0x68: // BINGET
        this.#recall(this.#uint8())
        return
      case 0x6a: // LONG_BINGET
        this.#recall(this.#uint32())
        return
      default:
        throw this.#error(`uses the pickle opcode 0x${opcode.toString(16)}, which no file of plain tensors needs`)
    }
  }

  #call(): void {
    const args = this.#pop()
    const callee = this.#pop()
    if (!Array.isArray(args)) throw this.#error('calls a function with arguments that are not a tuple')
    if (callee instanceof InertObject) this.#stack.push(new InertObject(callee.className, args))
    else if (!(callee instanceof PickleGlobal)) throw this.#error('calls something that is not a function')
    else if (!callee.call) throw this.#error(`calls ${callee.name}, which is refused`)
    else this.#stack.push(callee.call(args))
  }

  /** Attributes of an object; a state dict has some too, its `_metadata`. Only those of an InertObject are kept. */
  #build(): void {
    const state = this.#pop()
    const object = this.#top()
    if (object instanceof InertObject) object.state = state
    else if (typeof object !== 'object' || object === null || Array.isArray(object) || object instanceof PickleGlobal) {
      throw this.#error('sets attributes of a value that has none')
    }
  }

  #append(items: unknown[]): void {
    const list = this.#top()
    if (list instanceof InertObject) return
    if (!Array.isArray(list)) throw this.#error('appends to something that is not a list')
    for (const item of items) list.push(item)
  }

  #setItems(items: unknown[]): void {
    const map = this.#top()
    if (map instanceof InertObject) return
    if (!(map instanceof Map)) throw this.#error('sets items of something that is not a dictionary')
    if (items.length % 2 !== 0) throw this.#error('sets a key without a value')
    for (let i = 0; i < items.length; i += 2) {
      map.set(items[i], items[i + 1])
    }
  }

  #recall(index: number): void {
    if (!this.#memo.has(index)) throw this.#error('refers to an object that it has not defined')
    this.#stack.push(this.#memo.get(index))
  }

  #top(): unknown {
    const value = this.#stack.at(-1)
    if (value === undefined || value === MARK) throw this.#error('takes an object from an empty stack')
    return value
  }

  #pop(): unknown {
    const value = this.#top()
    this.#stack.pop()
    return value
  }

  #popText(): string {
    const value = this.#pop()
    if (typeof value !== 'string') throw this.#error('names a function by something that is not text')
    return value
  }

  #popToMark(): unknown[] {
    const mark = this.#stack.lastIndexOf(MARK)
    if (mark < 0) throw this.#error('ends a group that it has not begun')
    const items = this.#stack.splice(mark)
    items.shift()
    return items
  }

  /** Advances by `length` bytes and returns the position where they begin. */
  #skip(length: number): number {
    const at = this.#at
    if (length > this.bytes.length - at) {
      throw new PickleCutShort(`${this.options.source} is cut short: its pickle continues past the end of the data`)
    }
    this.#at += length
    return at
  }

  #slice(length: number): Uint8Array {
    const at = this.#skip(length)
    return this.bytes.subarray(at, at + length)
  }

  #text(length: number): string {
    return Buffer.from(this.#slice(length)).toString('utf8')
  }

  #line(): string {
    const end = this.bytes.indexOf(0x0a, this.#at)
    const line = this.#text((end < 0 ? this.bytes.length : end) - this.#at)
    this.#skip(1)
    return line
  }

  /** A little-endian integer in two's complement. */
  #long(length: number): number | bigint {
    let value = 0n
    const bytes = this.#slice(length)
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!)
    if (length > 0) value = BigInt.asIntN(8 * length, value)
    return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value
  }

  #uint8(): number {
    return this.#data.getUint8(this.#skip(1))
  }

  #uint64(): number {
    return Number(this.#data.getBigUint64(this.#skip(8), true)) // a length beyond exact numbers is too long anyway
  }

  #uint32(): number {
    return this.#data.getUint32(this.#skip(4), true)
  }

  #error(what: string): CheckpointError {
    return new CheckpointError(`${this.options.source} ${forError(what)}`)
  }
}
