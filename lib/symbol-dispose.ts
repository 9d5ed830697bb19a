/** For early releases of Node.js 20, which lack the symbol of what `using` disposes of: imported before any class that has it. */
const symbols = Symbol as { dispose?: symbol }
symbols.dispose ??= Symbol('Symbol.dispose')
