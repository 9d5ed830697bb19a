/** Takes a message about something unusual that is no error. */
export type OnWarning = (message: string) => void

/** For callers that take no warnings themselves: Node.js prints it on standard error. */
export const emitWarning: OnWarning = (message) => process.emitWarning(message, 'OpenAlpacaWarning')
