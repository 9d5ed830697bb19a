/** For Node.js before 20.6, which lacks the symbol of what `using` disposes of: imported before any class that has it. */
const symbols = Symbol as { dispose?: symbol }
symbols.dispose ??= Symbol('Symbol.dispose')
