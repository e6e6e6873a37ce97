// One pass over the data for a whole optimizer step with a memory, on the CPU.
//
// Built on first use (build.py) and called through plain C functions (native.py), so it needs a C++
// compiler and nothing of torch's headers. A step is bound by memory bandwidth: what counts is that
// every array is read once and written once. Each tensor is cut into chunks, which threads share,
// and each chunk into blocks whose intermediate results stay in the first-level cache.
//
// Per block, each of them if it is asked for: u = current * g + stored * S (+ weights[k] * slot k)
// and the rule's step along u; the squares of g, summed; and, where the gradient enters the memory,
// S = (S - old) + new with what the slot reads before and after. Arithmetic is in float, or double
// for double parameters.

#include <cstdint>

#include "memory.h"
#include "numbers.h"
#include "passes.h"
#include "rules.h"

extern "C" {

int64_t gradmem_tensor_bytes() { return sizeof(Tensor); }
int64_t gradmem_has_float16() { return kHasFloat16; }

#define GRADMEM_STEP(name, Rule)                                                                \
  void gradmem_##name(const Tensor* tensors, int64_t count, const Call* call, int64_t type,     \
                      int64_t slot_type, const double* options, int64_t threads) {              \
    step<Rule>(tensors, count, call, type, slot_type, options, threads);                        \
  }
GRADMEM_STEP(sgd, Sgd)
GRADMEM_STEP(rmsprop, RmsProp)
GRADMEM_STEP(adam, Adam)
GRADMEM_STEP(critical_adam, CriticalAdam)

void gradmem_squares(const void* const* arrays, const int64_t* sizes, int64_t count, int64_t type,
                     double* out, int64_t threads) {
  if (type == kFloat32) squares_all<float>(arrays, sizes, count, out, threads);
  if (type == kFloat64) squares_all<double>(arrays, sizes, count, out, threads);
  if (type == kBfloat16) squares_all<Bfloat16>(arrays, sizes, count, out, threads);
}

void gradmem_momenta(const void* const* arrays, void* const* averages, const int64_t* sizes,
                     int64_t count, int64_t type, double beta, double share, double* of_grads,
                     double* of_momenta, int64_t threads) {
#define GRADMEM_MOMENTA(P) \
  momenta_all<P>(arrays, averages, sizes, count, beta, share, of_grads, of_momenta, threads)
  if (type == kFloat32) GRADMEM_MOMENTA(float);
  if (type == kFloat64) GRADMEM_MOMENTA(double);
  if (type == kBfloat16) GRADMEM_MOMENTA(Bfloat16);
}

}  // extern "C"
