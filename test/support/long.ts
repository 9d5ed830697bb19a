/** Whether the tests may take long: `npm run test:long` runs all cases that `npm test` samples. */
export const isLong = process.env.OPENALPACA_TESTS === 'long'
