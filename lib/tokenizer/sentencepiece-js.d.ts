/** The part of @agnai/sentencepiece-js (Google's C++ as WASM; it ships no types) that tokenizer.ts uses. */
declare module '@agnai/sentencepiece-js' {
  export class SentencePieceProcessor {
    /** Instantiates the WASM module and reads the model. A refused file shows in `processor.status()` alone. */
    load(path: string): Promise<void>
    encodeIds(text: string): number[]
    decodeIds(ids: number[]): string
    /** Embind handles: each object that a call returns is freed by its `delete()`. */
    readonly processor: { status(): { ToString(): string; delete(): void } }
  }
}
