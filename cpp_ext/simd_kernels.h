// The kernels, written once over a vector type V that each instruction set defines in its own file:
//   reg, lanes; zero, load(p), load(p, n < lanes) with zeros behind, add, sub, fma(a, b, c) = a * b + c, broadcast, sum
//   passes<op>(values, value): the 64-bit mask of one word; count(word)
//   rows, queries: the register block of many queries; solo_rows: of one query
// V lives in an unnamed namespace, so every instantiation is private to its file and its flags.
//
// A (query, vector) pair is summed in the same order in every block shape: a distance does not depend on its
// neighbours.
#pragma once

#include "simd.h"
#include "simd_quantized.h"

namespace likewise {

enum class Form { dot, l2, norm, dot_and_norm };

inline constexpr size_t line_bytes = 64;
inline constexpr size_t ahead_bytes =
    12288;  // of 2 to 16 KiB tried: the best for rows in memory, within 5 % for rows in cache
inline constexpr size_t stream_row_bytes = 512;  // of 64 to 3,136 tried: above, one row at a time is faster

template <class V, Form form, int R, int Q, bool prefetch, class T>
[[gnu::always_inline]] inline void score_block(const Panel<T>& panel, size_t first_id, size_t first_query,
                                               size_t ahead) {
  using reg = typename V::reg;
  constexpr size_t lanes = V::lanes;
  const size_t dim = panel.dim;
  const T* rows[R];
  const char* next[R];
  const float* queries[Q];
  reg minus_scale[R];
  reg sums[2][R][Q];
  reg squares[2][R];
  for (int r = 0; r < R; ++r) {
    const int64_t id = panel.ids[first_id + r];
    rows[r] = panel.vectors + static_cast<size_t>(id) * dim;
    if constexpr (prefetch) {
      next[r] =
          reinterpret_cast<const char*>(panel.vectors + static_cast<size_t>(panel.ids[first_id + ahead + r]) * dim);
    }
    if constexpr (form == Form::l2 && sizeof(T) == 1) {
      minus_scale[r] = V::broadcast(panel.scales ? -panel.scales[id] : -1.0F);
    }
    squares[0][r] = squares[1][r] = V::zero();
    for (int q = 0; q < Q; ++q) sums[0][r][q] = sums[1][r][q] = V::zero();
  }
  for (int q = 0; q < Q; ++q) {
    queries[q] = form == Form::norm ? nullptr : panel.queries + (first_query + q) * dim;
  }

  const auto step = [&](size_t i, int half, auto load) __attribute__((always_inline)) {
    reg row[R];
    for (int r = 0; r < R; ++r) {
      row[r] = load(rows[r] + i);
      if constexpr (form == Form::dot_and_norm) squares[half][r] = V::fma(row[r], row[r], squares[half][r]);
    }
    for (int q = 0; q < Q; ++q) {
      reg query = V::zero();
      if constexpr (form != Form::norm) query = load(queries[q] + i);
      for (int r = 0; r < R; ++r) {
        if constexpr (form == Form::dot || form == Form::dot_and_norm)
          sums[half][r][q] = V::fma(query, row[r], sums[half][r][q]);
        if constexpr (form == Form::norm) sums[half][r][q] = V::fma(row[r], row[r], sums[half][r][q]);
        if constexpr (form == Form::l2) {
          reg gap;
          if constexpr (sizeof(T) == 1) {
            gap = V::fma(row[r], minus_scale[r], query);
          } else {
            gap = V::sub(query, row[r]);
          }
          sums[half][r][q] = V::fma(gap, gap, sums[half][r][q]);
        }
      }
    }
  };
  const auto whole = [](const auto* p) __attribute__((always_inline)) { return V::load(p); };

  size_t i = 0;
  for (; i + 2 * lanes <= dim; i += 2 * lanes) {
    if constexpr (prefetch) {
      if (2 * lanes * sizeof(T) >= line_bytes || i * sizeof(T) % line_bytes == 0) {
        for (int r = 0; r < R; ++r) {
          for (size_t at = 0; at < 2 * lanes * sizeof(T); at += line_bytes) {
            __builtin_prefetch(next[r] + i * sizeof(T) + at);
          }
        }
      }
    }
    step(i, 0, whole);
    step(i + lanes, 1, whole);
  }
  if (i + lanes <= dim) {
    step(i, 0, whole);
    i += lanes;
  }
  if (i < dim) {
    const size_t n = dim - i;
    step(i, 1, [n](const auto* p) __attribute__((always_inline)) { return V::load(p, n); });
  }
  if constexpr (prefetch) {
    for (int r = 0; r < R; ++r) __builtin_prefetch(next[r] + dim * sizeof(T) - 1);
  }

  for (int r = 0; r < R; ++r) {
    if constexpr (form == Form::dot_and_norm) {
      panel.norms[first_id + r] = V::sum(V::add(squares[0][r], squares[1][r]));
    }
    for (int q = 0; q < Q; ++q) {
      panel.out[(first_query + q) * panel.out_stride + first_id + r] = V::sum(V::add(sums[0][r][q], sums[1][r][q]));
    }
  }
}

template <class V, Form form, int R, int Q, bool prefetch, class T>
[[gnu::always_inline]] inline void score_queries(const Panel<T>& panel, size_t first_query) {
  const size_t row_bytes = panel.dim * sizeof(T);
  size_t ahead = (ahead_bytes + row_bytes - 1) / row_bytes;
  if (ahead < static_cast<size_t>(R)) ahead = R;
  const size_t limit = panel.n_ids + (first_query == 0 ? panel.n_ahead : 0);
  size_t i = 0;
  for (; i + R <= panel.n_ids; i += R) {
    if constexpr (prefetch) {
      if (first_query == 0 && i + ahead + R <= limit) {
        score_block<V, form, R, Q, true>(panel, i, first_query, ahead);
        continue;
      }
    }
    score_block<V, form, R, Q, false>(panel, i, first_query, 0);
  }
  for (; i < panel.n_ids; ++i) score_block<V, form, 1, Q, false>(panel, i, first_query, 0);
}

// Whether one query meets long rows that follow one another: hardware fetches one stream of them by itself, faster than
// several side by side with prefetches. Rows of int8_t stay side by side: they are bound by arithmetic.
template <class V>
bool is_stream(const Panel<float>& panel) {
  return panel.n_queries <= 1 && panel.n_ids != 0 && panel.dim * sizeof(float) >= stream_row_bytes &&
         panel.ids[panel.n_ids - 1] - panel.ids[0] == static_cast<int64_t>(panel.n_ids) - 1;
}

template <class V, Form form, class T>
void score(const Panel<T>& panel) {
  if constexpr (sizeof(T) == 4) {
    if (is_stream<V>(panel)) return score_queries<V, form, 1, 1, false>(panel, 0);
  }
  if constexpr (form == Form::dot_and_norm) {
    score_queries<V, form, (V::solo_rows + 1) / 2, 1, true>(panel, 0);  // it has twice the sums
  } else if constexpr (form == Form::norm) {
    score_queries<V, form, V::solo_rows, 1, true>(panel, 0);
  } else {
    size_t query = 0;
    for (; query + V::queries <= panel.n_queries; query += V::queries) {
      score_queries<V, form, V::rows, V::queries, true>(panel, query);
    }
    for (; query < panel.n_queries; ++query) score_queries<V, form, V::solo_rows, 1, true>(panel, query);
  }
}

template <class V, Operator op, class T>
void compare_words(const T* values, T value, uint64_t* words, size_t n_words) {
  for (size_t w = 0; w < n_words; ++w) {
    if (words[w] != 0) words[w] &= V::template passes<op>(values + 64 * w, value);
  }
}

template <class V>
size_t count_words(const uint64_t* words, size_t n_words) {
  size_t n = 0;
  for (size_t w = 0; w < n_words; ++w) n += V::count(words[w]);
  return n;
}

template <class V, class T>
constexpr void fill_compare(CompareWords<T> (&table)[n_operators]) {
  table[static_cast<size_t>(Operator::less)] = compare_words<V, Operator::less, T>;
  table[static_cast<size_t>(Operator::less_equal)] = compare_words<V, Operator::less_equal, T>;
  table[static_cast<size_t>(Operator::equal)] = compare_words<V, Operator::equal, T>;
  table[static_cast<size_t>(Operator::greater_equal)] = compare_words<V, Operator::greater_equal, T>;
  table[static_cast<size_t>(Operator::greater)] = compare_words<V, Operator::greater, T>;
  table[static_cast<size_t>(Operator::not_equal)] = compare_words<V, Operator::not_equal, T>;
}

template <class V>
constexpr Simd make_simd(const char* name) {
  Simd table{};
  table.name = name;
  table.f32 = {score<V, Form::dot, float>, score<V, Form::l2, float>, score<V, Form::norm, float>,
               score<V, Form::dot_and_norm, float>};
  table.i8 = {score<V, Form::dot, int8_t>, score<V, Form::l2, int8_t>, score<V, Form::norm, int8_t>,
              score<V, Form::dot_and_norm, int8_t>};
  fill_compare<V>(table.compare_i64);
  fill_compare<V>(table.compare_f32);
  fill_compare<V>(table.compare_f64);
  table.count = count_words<V>;
  table.crc32c = crc32c_table;
  table.quantized = make_quantized<V>();
  return table;
}

}  // namespace likewise
