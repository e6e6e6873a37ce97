// The passes over the data, shared out among threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "memory.h"
#include "numbers.h"

namespace {

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
  // A function of its own: what compilers make of it within a caller takes 1.3 times as long.
  __attribute__((noinline)) void add(const W* x, int64_t n) {
    Vector inner[kVectors], next;  // the members would go to memory and back every time
    std::memcpy(inner, sums, sizeof sums);
    int64_t i = 0;
    for (; i + kVectors * kWidth <= n; i += kVectors * kWidth) {
      for (int64_t k = 0; k < kVectors; k++) {
        std::memcpy(&next, x + i + k * kWidth, sizeof next);
        inner[k] += next * next;
      }
    }
    std::memcpy(sums, inner, sizeof sums);
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
