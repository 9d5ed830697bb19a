// Fill and cast, limited by memory bandwidth.
#include "core/device.h"
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

// Writes each element once.
template <class T, int N, class V>
__global__ void __launch_bounds__(kFlatThreads) fill_kernel(Global<T> x, int64_t n, V value) {
  T element;
  if constexpr (std::is_same_v<T, V>) {
    element = value;
  } else {
    element = from_float<T>(value);
  }
  for_my_elements<N>(n, [&](int64_t i, auto width) {
    Vec<T, width()> elements;
#pragma unroll
    for (int k = 0; k < width(); ++k) elements[k] = element;
    store<width()>(x + i, elements);
  });
}

template <class T, class V>
void fill_with(const Tensor& x, V value, const Launcher& on) {
  with_width<kVector<T>>(aligned(kVector<T>, 0, {x}), [&](auto width) {
    launch(on, fill_kernel<T, width(), V>, flat_grid(x.numel(), width()), kFlatThreads, 0, global<T>(x), x.numel(),
           value);
  });
}

// Reads and writes each element: 6 bytes from float32 to bfloat16 or back. Same-type casts copy the bits.
template <class S, class D, int N>
__global__ void __launch_bounds__(kFlatThreads) cast_kernel(Global<D> dst, Global<const S> src, int64_t n) {
  for_my_elements<N>(n, [&](int64_t i, auto width) {
    const Vec<S, width()> from = load<width()>(src + i);
    if constexpr (std::is_same_v<S, D>) {
      store<width()>(dst + i, from);
    } else {
      store<width()>(dst + i, from_floats<D>(to_floats(from)));
    }
  });
}

template <class S, class D>
void cast_from_to(const Cast& args, const Launcher& on) {
  constexpr int kN = kTogether<S, D>;
  const int64_t n = args.src.numel();
  with_width<kN>(aligned(kN, 0, {args.dst, args.src}), [&](auto width) {
    launch(on, cast_kernel<S, D, width()>, flat_grid(n, width()), kFlatThreads, 0, global<D>(args.dst),
           global<const S>(args.src), n);
  });
}

template <class F>
void with_floating_point(DType dtype, F&& f) {
  if (dtype == DType::float16) {
    f(__half{});
  } else {
    with_float(dtype, f);
  }
}

}  // namespace

void fill(const Fill& args, const Launcher& on) {
  if (args.x.numel() == 0) return;
  if (args.x.dtype == DType::int32) return fill_with<int32_t>(args.x, static_cast<int32_t>(args.value), on);
  with_floating_point(args.x.dtype,
                      [&](auto zero) { fill_with<decltype(zero)>(args.x, static_cast<float>(args.value), on); });
}

void cast(const Cast& args, const Launcher& on) {
  const DType from = args.src.dtype, to = args.dst.dtype;
  if (from != to && (from == DType::int32 || to == DType::int32)) {
    throw Error("UNSUPPORTED_DTYPE", std::string(on.op) + ": int32 cannot be cast to or from another dtype");
  }
  if (args.src.numel() == 0) return;
  if (from == DType::int32) return cast_from_to<int32_t, int32_t>(args, on);
  with_floating_point(from, [&](auto source) {
    with_floating_point(to, [&](auto destination) { cast_from_to<decltype(source), decltype(destination)>(args, on); });
  });
}

}  // namespace openalpaca::cuda
