import type { TrainEvent, TrainSubscriber } from '../train/events.js'

/** A display of a run: its events, and messages outside of events. */
export interface RunDisplay extends TrainSubscriber {
  print(text: string): void
}

/** Reports a run to programs: each event is a line of JSON on stdout, as in its log; messages go to stderr. */
export class EventLines implements RunDisplay {
  handle(event: TrainEvent): void {
    process.stdout.write(`${JSON.stringify(event)}\n`)
  }

  print(text: string): void {
    process.stderr.write(`${text}\n`)
  }

  close(): void {}
}
