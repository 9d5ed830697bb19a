// The product of a linear layer with few input rows, as in decoding; see matvec.cu.
#pragma once

#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {

// The maximum number of input rows of matvec: those of one mma operand.
constexpr int64_t kMaxMatVecRows = 16;

// c = alpha · a · bᵀ + beta · c for a [m, k] with 0 < m ≤ kMaxMatVecRows and b [n, k], k > 0.
void matvec(const MatMul& args, const Launcher& on);

}  // namespace openalpaca::cuda
