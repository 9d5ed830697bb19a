/**
 * Classes that DeepSpeed's checkpoints mention beside tensors: its loss scaler, its enumerations, the arguments and the
 * random states that trainers hand it to keep. Their objects are passed over: nothing of them is made or called.
 */
const PLAIN = new Set([
  'argparse.Namespace',
  'types.SimpleNamespace',
  'pathlib.PosixPath',
  'collections.defaultdict',
  'collections.deque',
  'copyreg._reconstructor',
  'copy_reg._reconstructor',
  '_codecs.encode',
  'torch.device',
  'torch.serialization._get_layout',
  ...['numpy.core', 'numpy._core'].flatMap((module) => [
    `${module}.multiarray._reconstruct`,
    `${module}.multiarray.scalar`,
  ]),
  'numpy.ndarray',
  'numpy.dtype',
  ...['builtins', '__builtin__'].flatMap((module) =>
    ['set', 'frozenset', 'list', 'dict', 'tuple', 'object', 'int', 'float', 'str', 'bool', 'complex', 'bytearray'].map(
      (name) => `${module}.${name}`,
    ),
  ),
])

export function isInertInDeepSpeed(name: string): boolean {
  return name.startsWith('deepspeed.') || PLAIN.has(name)
}
