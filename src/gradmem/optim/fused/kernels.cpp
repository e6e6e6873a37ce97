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

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t kBlock = 512;        // elements, at most: what a buffer has room for
// Elements of a block of a step. Small, so that the processor, which looks some hundred instructions
// ahead, begins to read the next block while it computes this one.
constexpr int64_t kStepBlock = 128;
constexpr int64_t kChunk = 1 << 14;    // elements a thread takes at a time; norms are summed by it
constexpr int64_t kWorthAThread = 1 << 14;
constexpr int64_t kScaleBlock = 256;   // elements of int8 that share a scale, as in formats.py
static_assert(kChunk % kBlock == 0 && kBlock % kScaleBlock == 0 && kScaleBlock % kStepBlock == 0,
              "blocks must nest");

// What stays from step to step of one parameter. Mirrored, field by field, in native.py.
struct Tensor {
  int64_t size;
  void* param;
  void* total;      // running sum S, float or double
  void* slots;      // (capacity, size)
  float* scales;    // (capacity, scale blocks) for int8, else null
  void* state[3];   // the rule's own; null where it has none
  void* step;       // its count of steps, raised here; or null
  int64_t step_is_double;
  int64_t row;      // which ledger it belongs to
};

// What one ledger does in this step.
struct Move {
  double current, stored;
  const double* weights;  // of each slot in u; null if S has them all
  int64_t capacity;
  int64_t slot;           // that the gradient enters, or -1
  int64_t update;         // whether the parameters take their step
};

// What changes from step to step, by tensor, and the moves by row.
struct Call {
  const void* const* grads;  // or what else is offered to the memory
  const Move* moves;
  void* const* updates;      // take u, for an observer; or null
  const uint8_t* fresh;      // whose state was made just now; or null
  double* squares;           // take the squared norm of each gradient; or null
};

enum Type : int64_t { kFloat32, kFloat64, kBfloat16, kFloat16, kInt8 };

// Numbers -------------------------------------------------------------------------------------

struct Bfloat16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(Bfloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void narrow(float x, float& out) { out = x; }
inline void narrow(double x, double& out) { out = x; }
inline void narrow(double x, float& out) { out = static_cast<float>(x); }
inline void narrow(float x, Bfloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  uint32_t even = bits + 0x7fffu + ((bits >> 16) & 1u);
  out.bits = static_cast<uint16_t>((x == x ? even : bits | 0x400000u) >> 16);
}
inline void narrow(double x, Bfloat16& out) { narrow(static_cast<float>(x), out); }

#ifdef __FLT16_MANT_DIG__
using Float16 = _Float16;
inline float widen(Float16 x) { return static_cast<float>(x); }
inline void narrow(float x, Float16& out) { out = static_cast<Float16>(x); }
inline void narrow(double x, Float16& out) { out = static_cast<Float16>(static_cast<float>(x)); }
constexpr bool kHasFloat16 = true;
#else
constexpr bool kHasFloat16 = false;
#endif

// The same for numbers that are not NaN.
template <class W, class S> inline void narrow_finite(W x, S& out) { narrow(x, out); }
template <class W> inline void narrow_finite(W wide, Bfloat16& out) {
  const float x = static_cast<float>(wide);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  out.bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The largest number of a format that a wider one must not pass on its way into it.
template <class S> constexpr double largest() { return std::numeric_limits<S>::max(); }
template <> constexpr double largest<Bfloat16>() { return 3.3895313892515355e38; }
#ifdef __FLT16_MANT_DIG__
template <> constexpr double largest<Float16>() { return 65504.0; }
#endif

// No gradient that enters has a larger element: its squares are summed in this type.
template <class W>
constexpr double kLargestElement = std::is_same_v<W, double> ? 1.4e154 : 1.9e19;

template <class P> using Wide = std::conditional_t<std::is_same_v<P, double>, double, float>;

// n elements of type T in the wide type: the array itself where it has that type, else a copy.
template <class T, class W> const W* read(const T* from, int64_t n, W* buffer) {
  if constexpr (std::is_same_v<T, W>) {
    return from;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) buffer[i] = static_cast<W>(widen(from[i]));
    return buffer;
  }
}

// The same for an array that is changed: written back when it goes out of scope.
template <class T, class W> struct Edited {
  Edited(void* base, int64_t offset, int64_t n) : n(n) {
    target = base ? static_cast<T*>(base) + offset : nullptr;
    data = target ? const_cast<W*>(read<T, W>(target, n, buffer)) : nullptr;
  }
  ~Edited() {
    if constexpr (!std::is_same_v<T, W>) {
      if (!target) return;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) narrow(data[i], target[i]);
    }
  }
  W* data;

 private:
  T* target;
  int64_t n;
  alignas(64) W buffer[std::is_same_v<T, W> ? 1 : kBlock];
};

// The memory ----------------------------------------------------------------------------------

// One block of one slot: read gives the values that it stands for; exchange puts others there, and
// takes the sum from what was read before to what will be read.
template <class S, class W> struct FloatSlot {
  static constexpr int64_t kAtOnce = kStepBlock;
  static S* at(const Tensor& t, int64_t slot, int64_t from) {
    return static_cast<S*>(t.slots) + slot * t.size + from;
  }
  static const W* read_slot(const Tensor& t, int64_t slot, int64_t from, int64_t n, W* buffer) {
    return read<S, W>(at(t, slot, from), n, buffer);
  }
  static void exchange(const Tensor& t, int64_t slot, int64_t from, int64_t n,
                       const W* __restrict g, W* __restrict total) {
    S* __restrict to = at(t, slot, from);
    if constexpr (std::is_same_v<S, W>) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        total[i] = (total[i] - to[i]) + g[i];
        to[i] = g[i];
      }
    } else {  // in loops of their own: mixed widths in one are not vectorized well
      alignas(64) W old[kBlock], clamped[kBlock];
      const W* from_g = g;
      if constexpr (largest<S>() < kLargestElement<W>) {
        const W limit = static_cast<W>(largest<S>());
#pragma omp simd
        for (int64_t i = 0; i < n; i++) clamped[i] = std::min(std::max(g[i], -limit), limit);
        from_g = clamped;
      }
#pragma omp simd
      for (int64_t i = 0; i < n; i++) old[i] = static_cast<W>(widen(to[i]));
#pragma omp simd
      for (int64_t i = 0; i < n; i++) narrow_finite(from_g[i], to[i]);
#pragma omp simd
      for (int64_t i = 0; i < n; i++) total[i] = (total[i] - old[i]) + static_cast<W>(widen(to[i]));
    }
  }
};

template <class W> struct Int8Slot {
  static constexpr int64_t kAtOnce = kScaleBlock;
  static float* scales(const Tensor& t, int64_t slot, int64_t from) {
    return t.scales + slot * ((t.size + kScaleBlock - 1) / kScaleBlock) + from / kScaleBlock;
  }
  static const W* read_slot(const Tensor& t, int64_t slot, int64_t from, int64_t n, W* buffer) {
    const int8_t* codes = static_cast<const int8_t*>(t.slots) + slot * t.size + from;
    const float* scale = scales(t, slot, from);
    for (int64_t b = 0; b < n; b += kScaleBlock, scale++) {
      const float s = *scale;
      const int64_t end = std::min(n, b + kScaleBlock);
#pragma omp simd
      for (int64_t i = b; i < end; i++) buffer[i] = static_cast<float>(codes[i]) * s;
    }
    return buffer;
  }
  static void exchange(const Tensor& t, int64_t slot, int64_t from, int64_t n,
                       const W* __restrict g, W* __restrict total) {
    int8_t* __restrict codes = static_cast<int8_t*>(t.slots) + slot * t.size + from;
    float* scale = scales(t, slot, from);
    const W limit = static_cast<W>(std::numeric_limits<float>::max() * (1 - 0x1p-23));
    for (int64_t b = 0; b < n; b += kScaleBlock, scale++) {
      const int64_t end = std::min(n, b + kScaleBlock);
      W most = 0;
#pragma omp simd reduction(max : most)
      for (int64_t i = b; i < end; i++) most = std::max(most, std::abs(g[i]));
      const float before = *scale;
      const float now = std::max(static_cast<float>(std::min(most, limit) / 127),
                                 std::numeric_limits<float>::min());
      *scale = now;
#pragma omp simd
      for (int64_t i = b; i < end; i++) {
        const W code = std::min(std::max(std::nearbyint(g[i] / now), W(-127)), W(127));
        const float old = static_cast<float>(codes[i]) * before;
        codes[i] = static_cast<int8_t>(static_cast<int32_t>(code));
        total[i] = (total[i] - old) + static_cast<float>(code) * now;
      }
    }
  }
};

template <class Slot, class W>
void add_slots(const Tensor& t, const Move& move, int64_t from, int64_t n, W* __restrict u) {
  alignas(64) W buffer[kBlock];
  for (int64_t k = 0; k < move.capacity; k++) {
    const W weight = static_cast<W>(move.weights[k]);
    if (weight == 0) continue;
    const W* slot = Slot::read_slot(t, k, from, n, buffer);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] += weight * slot[i];
  }
}

// A function called with the slot class of a format.
template <class W, class F> void with_slot(int64_t type, F&& f) {
  switch (type) {
    case kFloat32: return f(FloatSlot<float, W>{});
    case kFloat64:  // of double parameters alone
      if constexpr (std::is_same_v<W, double>) return f(FloatSlot<double, W>{});
      break;
    case kBfloat16: return f(FloatSlot<Bfloat16, W>{});
#ifdef __FLT16_MANT_DIG__
    case kFloat16: return f(FloatSlot<Float16, W>{});
#endif
    case kInt8: return f(Int8Slot<W>{});
  }
}

// The rules -----------------------------------------------------------------------------------

// Each is made of its options for one tensor, whose count of steps is t, and applied to blocks.

// Without a decay, an infinite parameter makes no NaN.
template <class W> inline W with_decay(W u, W decay, W p) { return decay == 0 ? u : u + decay * p; }

template <class W> struct Sgd {
  W lr, momentum, keep, weight_decay, sign;
  bool nesterov;
  Sgd(const double* o, double, bool fresh) {
    lr = o[0], momentum = o[1], weight_decay = o[3];
    keep = fresh ? 1 : 1 - o[2];  // without dampening the first time, as torch has it
    nesterov = o[4], sign = o[5] ? -1 : 1;
  }
  void operator()(W* __restrict p, W* const* state, W* __restrict u, int64_t n) const {
    W* __restrict buffer = state[0];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] = with_decay(sign * u[i], weight_decay, p[i]);
    if (buffer) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        buffer[i] = momentum * buffer[i] + keep * u[i];
        u[i] = nesterov ? u[i] + momentum * buffer[i] : buffer[i];
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] -= lr * u[i];
  }
};

template <class W> struct RmsProp {
  W lr, alpha, rest, eps, weight_decay, momentum, sign;
  RmsProp(const double* o, double, bool) {
    lr = o[0], alpha = o[1], rest = 1 - o[1], eps = o[2], weight_decay = o[3], momentum = o[4];
    sign = o[5] ? -1 : 1;
  }
  void operator()(W* __restrict p, W* const* state, W* __restrict u, int64_t n) const {
    W* __restrict square = state[0];
    W* __restrict mean = state[1];
    W* __restrict buffer = state[2];
    alignas(64) W variance[kBlock];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      u[i] = with_decay(sign * u[i], weight_decay, p[i]);
      square[i] = alpha * square[i] + rest * u[i] * u[i];
      variance[i] = square[i];
    }
    if (mean) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) {
        mean[i] += rest * (u[i] - mean[i]);
        variance[i] -= mean[i] * mean[i];
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] /= std::sqrt(variance[i]) + eps;
    if (buffer) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++) u[i] = buffer[i] = momentum * buffer[i] + u[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] -= lr * u[i];
  }
};

// Adam; of critical momenta, where the momentum is not made here but is what u was made of.
template <class W, bool Critical> struct AdamRule {
  W size, keep, rest1, beta2, rest2, root, eps, l2, sign;
  AdamRule(const double* o, double t, bool) {
    const double lr = o[0], beta1 = o[1], decay = o[4];
    beta2 = o[2], eps = o[3], rest1 = 1 - beta1, rest2 = 1 - o[2];
    size = lr / (1 - std::pow(beta1, t));
    root = 1 / std::sqrt(1 - std::pow(o[2], t));
    keep = o[5] ? 1 - lr * decay : 1;
    l2 = o[5] ? 0 : decay;
    sign = o[6] ? -1 : 1;
  }
  void operator()(W* __restrict p, W* const* state, W* __restrict u, int64_t n) const {
    W* __restrict m = state[0];
    W* __restrict v = state[1];
    W* __restrict most = state[2];
    alignas(64) W second[kBlock];
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      p[i] *= keep;
      const W a = with_decay(sign * u[i], l2, p[i]);
      if constexpr (Critical) {
        u[i] = a;
      } else {
        m[i] += rest1 * (a - m[i]);
      }
      second[i] = v[i] = beta2 * v[i] + rest2 * a * a;
    }
    if (most) {
#pragma omp simd
      for (int64_t i = 0; i < n; i++)  // NaN stays, as torch has it
        second[i] = most[i] = v[i] <= most[i] || most[i] != most[i] ? most[i] : v[i];
    }
    const W* along = Critical ? u : m;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] -= size * (along[i] / (std::sqrt(second[i]) * root + eps));
  }
};
template <class W> using Adam = AdamRule<W, false>;
template <class W> using CriticalAdam = AdamRule<W, true>;

// Passes --------------------------------------------------------------------------------------

struct Chunk {
  int64_t tensor, from, size;
};

// size_of(i) is the number of elements of tensor i.
template <class F> std::vector<Chunk> chunks_of(int64_t count, F&& size_of) {
  std::vector<Chunk> chunks;
  for (int64_t i = 0; i < count; i++)
    for (int64_t from = 0, size = size_of(i); from < size; from += kChunk)
      chunks.push_back({i, from, std::min(kChunk, size - from)});
  return chunks;
}

// f(chunk number, chunk) for all, by threads that each take neighbours of about as many elements, from
// the first on: a pass backwards, for what the one before left in the cache, takes longer.
template <class F>
void in_parallel(const std::vector<Chunk>& chunks, int64_t threads, F&& f) {
  const int64_t count = static_cast<int64_t>(chunks.size());
  int64_t elements = 0;
  for (const Chunk& c : chunks) elements += c.size;
  const int64_t parts = std::max<int64_t>(1, std::min(threads, elements / kWorthAThread));
  std::vector<int64_t> ends(parts + 1, count);
  ends[0] = 0;
  for (int64_t c = 0, part = 1, before = 0; c < count && part < parts; before += chunks[c++].size)
    while (part < parts && before >= elements * part / parts) ends[part++] = c;
#pragma omp parallel for schedule(static, 1) num_threads(static_cast<int>(parts)) if (parts > 1)
  for (int64_t part = 0; part < parts; part++)
    for (int64_t c = ends[part]; c < ends[part + 1]; c++) f(c, chunks[c]);
}

// Adds chunk sums up by tensor, in their order: the result does not depend on the threads.
void add_up(const std::vector<Chunk>& chunks, const std::vector<double>& parts, int64_t count,
            double* out) {
  std::fill(out, out + count, 0.0);
  for (size_t c = 0; c < chunks.size(); c++) out[chunks[c].tensor] += parts[c];
}

// A sum of squares that grows by pieces of x; the same for any pieces of whole blocks of 32. In vectors
// of a fixed width: a compiler that chose one would do so by alignment, and bits would depend on it.
template <class W> class Squares {
 public:
  void add(const W* x, int64_t n) {
    Vector next;
    int64_t i = 0;
    for (; i + kVectors * kWidth <= n; i += kVectors * kWidth) {
      for (int64_t k = 0; k < kVectors; k++) {
        std::memcpy(&next, x + i + k * kWidth, sizeof next);
        sums[k] += next * next;
      }
    }
    for (; i < n; i++) rest += x[i] * x[i];
  }
  double total() const {
    double sum = rest;
    for (int64_t k = 0; k < kVectors; k++)
      for (int64_t lane = 0; lane < kWidth; lane++) sum += sums[k][lane];
    return sum;
  }

 private:
  typedef W Vector __attribute__((vector_size(32)));
  static constexpr int64_t kWidth = sizeof(Vector) / sizeof(W), kVectors = 4;
  Vector sums[kVectors] = {};
  W rest = 0;
};

template <class W> double sum_of_squares(const W* x, int64_t n) {
  Squares<W> squares;
  squares.add(x, n);
  return squares.total();
}

double raise_step(const Tensor& t) {
  if (!t.step) return 0;
  return t.step_is_double ? *static_cast<double*>(t.step) += 1 : *static_cast<float*>(t.step) += 1;
}

// The update of n elements of one tensor, beginning at `from`, whose gradient is g.
template <class P, class Slot, class Rule, class W>
void update_block(const Tensor& t, const Move& move, const W* __restrict g, void* update,
                  const Rule& rule, int64_t from, int64_t n) {
  alignas(64) W u[kBlock];
  const W* __restrict total = static_cast<const W*>(t.total) + from;
  const W current = move.current, stored = move.stored;
  if (stored == 0) {  // S may be infinite where no weight is on it
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] = current * g[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) u[i] = current * g[i] + stored * total[i];
  }
  if (move.weights) add_slots<Slot, W>(t, move, from, n, u);
  if (update) {
    P* out = static_cast<P*>(update) + from;
    for (int64_t i = 0; i < n; i++) narrow(u[i], out[i]);
  }
  Edited<P, W> p(t.param, from, n), a(t.state[0], from, n), b(t.state[1], from, n),
      c(t.state[2], from, n);
  W* const state[3] = {a.data, b.data, c.data};
  rule(p.data, state, u, n);
}

// All that is done with n elements of one tensor, beginning at `from`.
template <class P, class Slot, class Rule>
void step_block(const Tensor& t, const Move& move, const void* grad, void* update, const Rule& rule,
                Squares<Wide<P>>* squares, int64_t from, int64_t n) {
  using W = Wide<P>;
  alignas(64) W wide[kBlock];
  const W* g = read<P, W>(static_cast<const P*>(grad) + from, n, wide);
  if (move.update) {
    for (int64_t i = 0; i < n; i += kStepBlock)
      update_block<P, Slot>(t, move, g + i, update, rule, from + i, std::min(kStepBlock, n - i));
  }
  if (squares) squares->add(g, n);
  if (move.slot >= 0) Slot::exchange(t, move.slot, from, n, g, static_cast<W*>(t.total) + from);
}

// The same with a chunk of it; the sum of squares, if it is asked for, is that of squares_all.
template <class P, class Slot, class Rule>
double step_chunk(const Tensor& t, const Move& move, const void* grad, void* update,
                  const Rule& rule, bool squares, const Chunk& c) {
  const int64_t end = c.from + c.size;
  double sum = 0;
  for (int64_t block = c.from; block < end; block += kBlock) {
    Squares<Wide<P>> of_block;
    const int64_t block_end = std::min(end, block + kBlock);
    for (int64_t i = block; i < block_end; i += Slot::kAtOnce)
      step_block<P, Slot>(t, move, grad, update, rule, squares ? &of_block : nullptr, i,
                          std::min(Slot::kAtOnce, block_end - i));
    sum += of_block.total();
  }
  return sum;
}

template <template <class> class Rule, class P>
void step_all(const Tensor* tensors, int64_t count, const Call& call, int64_t slot_type,
              const double* options, int64_t threads) {
  std::vector<Rule<Wide<P>>> rules;
  rules.reserve(count);
  for (int64_t i = 0; i < count; i++) {
    const double t = call.moves[tensors[i].row].update ? raise_step(tensors[i]) : 0;
    rules.emplace_back(options, t, call.fresh && call.fresh[i]);
  }
  const auto chunks = chunks_of(count, [&](int64_t i) { return tensors[i].size; });
  std::vector<double> parts(chunks.size());
  with_slot<Wide<P>>(slot_type, [&](auto slot) {
    in_parallel(chunks, threads, [&](int64_t number, const Chunk& c) {
      const Tensor& t = tensors[c.tensor];
      const Move& move = call.moves[t.row];
      if (!move.update && !call.squares && move.slot < 0) return;
      parts[number] = step_chunk<P, decltype(slot)>(
          t, move, call.grads[c.tensor], call.updates ? call.updates[c.tensor] : nullptr,
          rules[c.tensor], call.squares, c);
    });
  });
  if (call.squares) add_up(chunks, parts, count, call.squares);
}

template <template <class> class Rule>
void step(const Tensor* tensors, int64_t count, const Call* call, int64_t type, int64_t slot_type,
          const double* options, int64_t threads) {
  if (type == kFloat32) step_all<Rule, float>(tensors, count, *call, slot_type, options, threads);
  if (type == kFloat64) step_all<Rule, double>(tensors, count, *call, slot_type, options, threads);
  if (type == kBfloat16)
    step_all<Rule, Bfloat16>(tensors, count, *call, slot_type, options, threads);
}

template <class P>
void squares_all(const void* const* arrays, const int64_t* sizes, int64_t count, double* out,
                 int64_t threads) {
  using W = Wide<P>;
  const auto chunks = chunks_of(count, [&](int64_t i) { return sizes[i]; });
  std::vector<double> parts(chunks.size());
  in_parallel(chunks, threads, [&](int64_t number, const Chunk& c) {
    alignas(64) W wide[kBlock];
    const P* g = static_cast<const P*>(arrays[c.tensor]) + c.from;
    double sum = 0;
    for (int64_t b = 0; b < c.size; b += kBlock) {
      const int64_t n = std::min(kBlock, c.size - b);
      sum += sum_of_squares(read<P, W>(g + b, n, wide), n);
    }
    parts[number] = sum;
  });
  add_up(chunks, parts, count, out);
}

// m = beta m + share g, with the squared norms of g and m.
template <class P>
void momenta_all(const void* const* arrays, void* const* averages, const int64_t* sizes,
                 int64_t count, double beta, double share, double* of_grads, double* of_momenta,
                 int64_t threads) {
  using W = Wide<P>;
  const auto chunks = chunks_of(count, [&](int64_t i) { return sizes[i]; });
  std::vector<double> grads(chunks.size()), momenta(chunks.size());
  in_parallel(chunks, threads, [&](int64_t number, const Chunk& c) {
    const W keep = beta, rest = share;
    alignas(64) W wide[kBlock];
    double of_g = 0, of_m = 0;
    for (int64_t b = 0; b < c.size; b += kBlock) {
      const int64_t n = std::min(kBlock, c.size - b), from = c.from + b;
      const W* __restrict g = read<P, W>(static_cast<const P*>(arrays[c.tensor]) + from, n, wide);
      Edited<P, W> m(averages[c.tensor], from, n);
      W* __restrict data = m.data;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) data[i] = keep * data[i] + rest * g[i];
      of_g += sum_of_squares(g, n), of_m += sum_of_squares<W>(data, n);
    }
    grads[number] = of_g, momenta[number] = of_m;
  });
  add_up(chunks, grads, count, of_grads);
  add_up(chunks, momenta, count, of_momenta);
}

}  // namespace

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
