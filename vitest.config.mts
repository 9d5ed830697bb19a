import { defineConfig } from 'vitest/config'

export default defineConfig({
  // The sources instead of dist/, for which package.json has this name.
  resolve: { alias: [{ find: /^#lib\/(.*)\.js$/, replacement: `${import.meta.dirname}/lib/$1.ts` }] },
  test: {
    // `npm run test:docs` runs the commands of the documentation, which takes minutes.
    include: [process.env.OPENALPACA_TEST_DOCS ? 'test/docs/*.run.ts' : 'test/**/*.test.ts'],
    pool: 'forks', // an addon with its own threads may outlive a worker thread, and a crash should identify its test file
    maxWorkers: 2,
    testTimeout: 180_000, // a guard against hanging: no test asserts a time
    hookTimeout: 300_000,
    env: { OMP_WAIT_POLICY: 'passive' }, // the test processes share the cores
    reporters: ['default', './test/reporter.mts'],
  },
})
