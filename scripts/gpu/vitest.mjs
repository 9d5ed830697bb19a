// Replaces the 'vitest' import of the compiled tests in the GPU bundle: vitest's own test functions and matchers,
// without vite and its compilers.
import * as matchers from '@vitest/expect'
import { getCurrentTest } from '@vitest/runner'

export { afterAll, afterEach, beforeAll, beforeEach, describe, it, startTests, test } from '@vitest/runner'

const { chai, customMatchers, getState, setState } = matchers
chai.use(matchers.JestExtend)
chai.use(matchers.JestChaiExpect)
chai.use(matchers.ChaiStyleAssertions)
chai.use(matchers.JestAsymmetricMatchers)

export function expect(value, message) {
  const assertion = chai.expect(value, message)
  const test = getCurrentTest()
  return test ? assertion.withTest(test) : assertion
}
Object.assign(expect, chai.expect, globalThis[matchers.ASYMMETRIC_MATCHERS_OBJECT])
expect.getState = () => getState(expect)
expect.setState = (state) => setState(state, expect)
setState({ assertionCalls: 0, isExpectingAssertions: false, expectedAssertionsNumber: null }, expect)
expect.extend = (more) => chai.expect.extend(expect, more)
expect.extend(customMatchers)
Object.defineProperty(globalThis, matchers.GLOBAL_EXPECT, { value: expect, writable: true, configurable: true })
