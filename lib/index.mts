// The ES module face of the package. One implementation serves import and require, so that a program which uses both
// has one addon and one set of classes.
export * from './index.js'
