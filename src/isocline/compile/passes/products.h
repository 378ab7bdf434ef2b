// Products of small matrices, for one thread.
//
// A product is cut into tiles of a few rows by one to eight vectors of columns, which stay in
// registers while the inner axis goes by. Panels of the right factor are copied side by side
// first where enough rows will read them. No intrinsics: vectors are those of GCC and clang.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace isocline {

using std::int64_t;

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRegisters = 12;
#else
constexpr int kBytes = 16, kRegisters = 12;
#endif

constexpr int64_t kInner = 256;  // of a panel: 16 columns of it in float32 are half of the L1 cache
constexpr int64_t kPacked = 8;   // rows from which on copying a panel pays
constexpr int64_t kParallel = 1 << 20;  // multiplications from which on threads pay
constexpr int64_t kDots = 4;     // columns up to which rows of both factors are multiplied whole

template <class T>
struct Of {
    typedef T vector __attribute__((vector_size(kBytes)));
    typedef T loose __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
    static constexpr int lanes = kBytes / sizeof(T);
};

template <class T>
struct Left {  // element (i, k) is at data[i * row + k * inner]
    const T* data;
    int64_t row, inner;
};

// c (+)= a b for R rows and C vectors of columns.
template <class T, int R, int C>
void tile(Left<T> a, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t inner, bool add) {
    using V = typename Of<T>::vector;
    using L = typename Of<T>::loose;
    constexpr int n = Of<T>::lanes;
    V sums[R][C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++) sums[i][j] = add ? *(const L*)(c + i * c_row + j * n) : V{};
    for (int64_t k = 0; k < inner; k++) {
        V right[C];
#pragma GCC unroll 16
        for (int j = 0; j < C; j++) right[j] = *(const L*)(b + k * b_row + j * n);
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            const V left = a.data[i * a.row + k * a.inner] - V{};
#pragma GCC unroll 16
            for (int j = 0; j < C; j++) sums[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++) *(L*)(c + i * c_row + j * n) = sums[i][j];
}

// c (+)= a b for all rows, R at a time, and C vectors of columns, of which `width` exist.
template <class T, int C, int R>
void strip(Left<T> a, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows, int64_t inner,
           bool add, int width) {
    constexpr int whole = C * Of<T>::lanes;
    for (; rows >= R; rows -= R, a.data += R * a.row, c += R * c_row) {
        if (width == whole) {
            tile<T, R, C>(a, b, b_row, c, c_row, inner, add);
            continue;
        }
        T edge[R * whole] = {};
        for (int i = 0; add && i < R; i++)
            std::memcpy(edge + i * whole, c + i * c_row, sizeof(T) * width);
        tile<T, R, C>(a, b, b_row, edge, whole, inner, add);
        for (int i = 0; i < R; i++)
            std::memcpy(c + i * c_row, edge + i * whole, sizeof(T) * width);
    }
    if constexpr (R > 1)
        if (rows) strip<T, C, R / 2>(a, b, b_row, c, c_row, rows, inner, add, width);
}

// A panel of the right factor: `width` columns of it, with zeros up to C vectors.
template <class T, int C>
void pack(const T* b, int64_t b_row, int64_t b_column, T* to, int64_t inner, int width) {
    constexpr int padded = C * Of<T>::lanes;
    for (int64_t k = 0; k < inner; k++, to += padded) {
        const T* from = b + k * b_row;
        if (b_column == 1 && width == padded) {
            std::memcpy(to, from, sizeof(T) * padded);
            continue;
        }
        for (int j = 0; j < width; j++) to[j] = from[j * b_column];
        for (int j = width; j < padded; j++) to[j] = T(0);
    }
}

// c (+)= a b, b's element (k, j) at b[k * b_row + j * b_column]; c contiguous.
template <class T, int C>
void panels(Left<T> a, const T* b, int64_t b_row, int64_t b_column, T* c, int64_t rows,
            int64_t columns, int64_t inner, bool add) {
    constexpr int n = Of<T>::lanes, R = std::min(kRegisters / C, 12);
    alignas(kBytes) T panel[kInner * C * n];
    for (int64_t from = 0; from < inner; from += kInner) {
        const int64_t depth = std::min(kInner, inner - from);
        const Left<T> left{a.data + from * a.inner, a.row, a.inner};
        for (int64_t j = 0; j < columns; j += C * n) {
            const int width = int(std::min<int64_t>(C * n, columns - j));
            const T* right = b + from * b_row + j * b_column;
            int64_t stride = b_row;
            if (b_column != 1 || width < C * n || rows >= kPacked) {
                pack<T, C>(right, b_row, b_column, panel, depth, width);
                right = panel, stride = C * n;
            }
            const bool more = add || from > 0;
            strip<T, C, R>(left, right, stride, c + j, columns, rows, depth, more, width);
        }
    }
}

template <class T, int n>
T sum(const T* v) {
    if constexpr (n == 1) {
        return *v;
    } else {
        typedef T half __attribute__((vector_size(n / 2 * sizeof(T))));
        half low, high;
        std::memcpy(&low, v, sizeof low);
        std::memcpy(&high, v + n / 2, sizeof high);
        low += high;
        if constexpr (n == 2) return low[0];
        else return sum<T, n / 2>((const T*)&low);
    }
}

// R rows by S columns of a b^T, both with contiguous rows.
template <class T, int R, int S>
void dots(const T* a, const T* b, T* c, int64_t c_row, int64_t inner) {
    using V = typename Of<T>::vector;
    using L = typename Of<T>::loose;
    constexpr int n = Of<T>::lanes;
    V sums[R][S];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < S; j++) sums[i][j] = V{};
    int64_t k = 0;
    for (; k + n <= inner; k += n)
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
#pragma GCC unroll 16
            for (int j = 0; j < S; j++)
                sums[i][j] += *(const L*)(a + i * inner + k) * *(const L*)(b + j * inner + k);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < S; j++) {
            T total = k ? sum<T, n>((const T*)&sums[i][j]) : T(0);
            for (int64_t l = k; l < inner; l++) total += a[i * inner + l] * b[j * inner + l];
            c[i * c_row + j] = total;
        }
}

// Lanes of a and b by turns, S of each; `across`: those that lie S away from there.
template <int S, bool across, class V, int... I>
V woven(V a, V b, std::integer_sequence<int, I...>) {
    constexpr int n = sizeof...(I), swap = across ? S : 0;
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, (I & S ? n + (I ^ swap) : I ^ swap)...);
#else
    return V{(I & S ? b[I ^ swap] : a[I ^ swap])...};
#endif
}

// The sum of each of 2 S vectors in the lane of its number: two at a time go into one.
template <int S, class V, class Lanes>
V sums_of(V* all, Lanes lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < S; i++)
        all[i] = woven<S, false>(all[i], all[i + S], lanes) +
                 woven<S, true>(all[i], all[i + S], lanes);
    if constexpr (S > 1) return sums_of<S / 2>(all, lanes);
    else return all[0];
}

// A vector of columns of one row of a b^T, both with contiguous rows no shorter than a vector.
template <class T>
void column_sums(const T* a, const T* b, T* c, int64_t inner) {
    using V = typename Of<T>::vector;
    using L = typename Of<T>::loose;
    constexpr int n = Of<T>::lanes;
    V sums[n];
#pragma GCC unroll 16
    for (int j = 0; j < n; j++) sums[j] = V{};
    int64_t k = 0;
    for (; k + n <= inner; k += n) {
        const V left = *(const L*)(a + k);
#pragma GCC unroll 16
        for (int j = 0; j < n; j++) sums[j] += left * *(const L*)(b + j * inner + k);
    }
    if (k < inner) {  // the last vector of each row, without the lanes that were there before
        V before;
        for (int i = 0; i < n; i++) before[i] = T(i < n - (inner - k));
        k = inner - n;
        const V zero{}, left = before > zero ? zero : *(const L*)(a + k);
#pragma GCC unroll 16
        for (int j = 0; j < n; j++) {
            const V right = *(const L*)(b + j * inner + k);
            sums[j] += left * (before > zero ? zero : right);
        }
    }
    *(L*)c = sums_of<n / 2>(sums, std::make_integer_sequence<int, n>{});
}

// One row of a b^T, with so short a sum that it is written out.
template <class T, int inner>
void short_sums(const T* a, const T* b, T* c, int64_t columns) {
    for (int64_t j = 0; j < columns; j++) {
        T total = a[0] * b[j * inner];
#pragma GCC unroll 16
        for (int k = 1; k < inner; k++) total += a[k] * b[j * inner + k];
        c[j] = total;
    }
}

// c = a b^T with few rows or few columns: nothing is copied.
template <class T>
void few(const T* a, const T* b, T* c, int64_t rows, int64_t columns, int64_t inner) {
    constexpr int n = Of<T>::lanes;
    int64_t j = 0;
    if (inner <= 4) {
        constexpr void (*by_length[])(const T*, const T*, T*, int64_t) = {
            short_sums<T, 1>, short_sums<T, 2>, short_sums<T, 3>, short_sums<T, 4>};
        for (int64_t i = 0; i < rows; i++)
            by_length[inner - 1](a + i * inner, b, c + i * columns, columns);
        return;
    }
    if (inner >= n)
        for (; j + n <= columns; j += n)
            for (int64_t i = 0; i < rows; i++)
                column_sums(a + i * inner, b + j * inner, c + i * columns + j, inner);
    const auto block = [&](auto across) {
        constexpr int S = decltype(across)::value, R = 8 / S;
        for (; j + S <= columns; j += S) {
            int64_t i = 0;
            for (; i + R <= rows; i += R)
                dots<T, R, S>(a + i * inner, b + j * inner, c + i * columns + j, columns, inner);
            for (; i < rows; i++)
                dots<T, 1, S>(a + i * inner, b + j * inner, c + i * columns + j, columns, inner);
        }
    };
    block(std::integral_constant<int, 4>{});
    block(std::integral_constant<int, 2>{});
    block(std::integral_constant<int, 1>{});
}

// Too few columns for a vector and too few rows to copy for: element by element.
template <class T>
void scalars(Left<T> a, const T* b, int64_t b_row, int64_t b_column, T* c, int64_t rows,
             int64_t columns, int64_t inner, bool add) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const auto term = [&](int64_t k) {
                return a.data[i * a.row + k * a.inner] * b[k * b_row + j * b_column];
            };
            // Four sums at a time: one alone would wait for itself at every term.
            T sums[4] = {add ? c[i * columns + j] : T(0), T(0), T(0), T(0)};
            int64_t k = 0;
            for (; k + 4 <= inner; k += 4)
#pragma GCC unroll 4
                for (int l = 0; l < 4; l++) sums[l] += term(k + l);
            for (; k < inner; k++) sums[0] += term(k);
            c[i * columns + j] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
}

// c (+)= a b by the loops that suit the sizes, on one thread.
template <class T>
void part(Left<T> a, const T* b, bool b_turned, T* c, int64_t rows, int64_t columns, int64_t inner,
          bool add) {
    const bool whole = a.inner == 1 && a.row == inner && b_turned && !add;
    if (whole && (rows < kPacked || columns <= kDots))
        return few(a.data, b, c, rows, columns, inner);
    const int64_t b_row = b_turned ? 1 : columns, b_column = b_turned ? inner : 1;
    constexpr int n = Of<T>::lanes;
    if (columns < n && rows < kPacked)
        scalars(a, b, b_row, b_column, c, rows, columns, inner, add);
    else if (columns <= n)
        panels<T, 1>(a, b, b_row, b_column, c, rows, columns, inner, add);
    else if (rows == 1 && columns >= 8 * n)
        panels<T, 8>(a, b, b_row, b_column, c, rows, columns, inner, add);
    else if (rows < 4 && columns >= 4 * n)
        panels<T, 4>(a, b, b_row, b_column, c, rows, columns, inner, add);
    else
        panels<T, 2>(a, b, b_row, b_column, c, rows, columns, inner, add);
}

// c (+)= op(a) op(b), all contiguous: a is (rows, inner), or (inner, rows) where it is turned;
// b is (inner, columns), or (columns, inner). Large ones are cut by rows for the threads.
template <class T>
void product(const T* a, bool a_turned, const T* b, bool b_turned, T* c, int64_t rows,
             int64_t columns, int64_t inner, bool add) {
    const Left<T> left{a, a_turned ? 1 : inner, a_turned ? rows : 1};
#if ISOCLINE_THREADS > 1
    if (rows >= 2 * kRegisters && rows * columns * inner >= kParallel) {
        constexpr int64_t threads = ISOCLINE_THREADS;
        const int64_t each = (rows / threads / kRegisters + 1) * kRegisters;
#pragma omp parallel for num_threads(threads)
        for (int64_t from = 0; from < rows; from += each)
            part<T>({a + from * left.row, left.row, left.inner}, b, b_turned, c + from * columns,
                    std::min(each, rows - from), columns, inner, add);
        return;
    }
#endif
    part(left, b, b_turned, c, rows, columns, inner, add);
}

}  // namespace isocline
