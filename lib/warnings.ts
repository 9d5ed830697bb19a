/** Receives a message about something unusual but harmless. */
export type OnWarning = (message: string) => void

/** For callers without a warning handler: Node.js prints it on standard error. */
export const emitWarning: OnWarning = (message) => process.emitWarning(message, 'OpenAlpacaWarning')
