// Dense layers one after another over a few rows, without a tensor between them.

namespace isocline {

constexpr int64_t kWidest = 128, kDeepest = 16;  // layers.py asks for no more

enum Follows : int64_t { kNone = 0, kTanh = 1, kRelu = 2, kTanhBackward = 3, kReluBackward = 4 };

template <class V>
V rational_tanh(V x) {  // as in tanh.py
    const V edge = 7.90531110763549805f - V{};
    x = x < -edge ? -edge : x;
    x = x > edge ? edge : x;
    const V s = x * x;
    V top = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    top = s * top + -8.60467152213735e-11f;
    top = s * top + 5.12229709037114e-08f;
    top = s * top + 1.48572235717979e-05f;
    top = s * top + 6.37261928875436e-04f;
    top = s * top + 4.89352455891786e-03f;
    V bottom = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    bottom = s * bottom + 2.26843463243900e-03f;
    bottom = s * bottom + 4.89352518554385e-03f;
    return x * top / bottom;
}

// What follows a layer; `result` is what the activation yielded that is pulled back.
template <class V>
V followed(V x, V result, int64_t follows) {
    if (follows == kTanh) return rational_tanh(x);
    if (follows == kRelu) return x < V{} ? V{} : x;
    if (follows == kTanhBackward) return x * (1.0f - result * result);
    if (follows == kReluBackward) return result > V{} ? x : V{};
    return x;
}

struct Layer {
    const float *weight, *bias, *result;  // the last two: null where there is none
    bool turned;  // the weight is (columns, inner), else (inner, columns)
    bool kept;    // what it yields is part of the result
    int64_t columns, follows;
};

// What comes after the product, in place, for all of its elements in row `row`.
inline void finish(float* to, const Layer& layer, int64_t row) {
    using V = Of<float>::vector;
    using L = Of<float>::loose;
    constexpr int n = Of<float>::lanes;
    const int64_t columns = layer.columns;
    const float *bias = layer.bias, *result = layer.result;
    if (result) result += row * columns;
    to += row * columns;
    int64_t j = 0;
    for (; j + n <= columns; j += n) {
        V x = *(const L*)(to + j);
        if (bias) x += *(const L*)(bias + j);
        *(L*)(to + j) = followed(x, result ? V(*(const L*)(result + j)) : V{}, layer.follows);
    }
    if (j == columns) return;
    V x{}, y{};
    for (int i = 0; i < columns - j; i++) {
        x[i] = to[j + i] + (bias ? bias[j + i] : 0.0f);
        if (result) y[i] = result[j + i];
    }
    x = followed(x, y, layer.follows);
    for (int i = 0; i < columns - j; i++) to[j + i] = x[i];
}

// The layers over `rows` rows, fewer than kPacked; those that are kept, one after another in `out`.
inline void layers(const float* x, const Layer* all, int64_t count, float* out, int64_t rows,
                   int64_t inner) {
    alignas(kBytes) float between[2][(kPacked - 1) * kWidest];
    for (int64_t i = 0; i < count; i++) {
        const Layer& layer = all[i];
        float* to = layer.kept ? out : between[i % 2];
        product(x, false, layer.weight, layer.turned, to, rows, layer.columns, inner, false);
        for (int64_t row = 0; row < rows; row++) finish(to, layer, row);
        if (layer.kept) out += rows * layer.columns;
        x = to, inner = layer.columns;
    }
}

}  // namespace isocline
