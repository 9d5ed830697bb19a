import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // an addon with threads of its own outlives a worker thread badly, and a crash should say whose it is
    maxWorkers: 2,
    testTimeout: 180_000, // a guard against hanging: no test asserts a time
    hookTimeout: 60_000,
    env: { OMP_WAIT_POLICY: 'passive' }, // the test processes share the cores
    reporters: ['default', './test/reporter.mts'],
  },
})
