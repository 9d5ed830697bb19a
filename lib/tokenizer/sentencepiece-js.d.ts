/** The part of @agnai/sentencepiece-js (Google's C++ as WASM; it ships no types) that tokenizer.ts uses. */
declare module '@agnai/sentencepiece-js' {
  export class SentencePieceProcessor {
    /** Instantiates the WASM module and reads the model. Only `processor.status()` reports a rejected file. */
    load(path: string): Promise<void>
    encodeIds(text: string): number[]
    decodeIds(ids: number[]): string
    /** Embind handles: the caller must free each returned object with its `delete()`. */
    readonly processor: { status(): { ToString(): string; delete(): void } }
  }
}
