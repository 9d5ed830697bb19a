/**
 * For early releases of Node.js 20, which lack the symbol that `using` needs: imported before any class that has it.
 */
const symbols = Symbol as { dispose?: symbol }
symbols.dispose ??= Symbol('Symbol.dispose')
