/** Whether the tests may take long: `npm run test:long` tries what `npm test` takes samples of. */
export const isLong = process.env.OPENALPACA_TESTS === 'long'
