// The ES module entry point. It shares one implementation with `require`, so that a program that uses both has one
// addon and one set of classes.
export * from './index.js'
