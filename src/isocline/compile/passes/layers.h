// Dense layers one after another over a few rows, without a tensor between them.

namespace isocline {

constexpr int64_t kWidest = 128, kDeepest = 16;  // layers.py asks for no more

enum Activation : int64_t { kNone = 0, kTanh = 1, kRelu = 2 };

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

template <class V>
V activated(V x, int64_t activation) {
    if (activation == kTanh) return rational_tanh(x);
    if (activation == kRelu) return x < V{} ? V{} : x;
    return x;
}

// row = activation(row + bias), in place; without a bias where that is null.
inline void finish(float* row, const float* bias, int64_t columns, int64_t activation) {
    using V = Of<float>::vector;
    using L = Of<float>::loose;
    constexpr int n = Of<float>::lanes;
    int64_t j = 0;
    for (; j + n <= columns; j += n) {
        V x = *(const L*)(row + j);
        if (bias) x += *(const L*)(bias + j);
        *(L*)(row + j) = activated(x, activation);
    }
    if (j == columns) return;
    V x{};
    for (int i = 0; i < columns - j; i++) x[i] = row[j + i] + (bias ? bias[j + i] : 0.0f);
    x = activated(x, activation);
    for (int i = 0; i < columns - j; i++) row[j + i] = x[i];
}

struct Layer {
    const float *weight, *bias;
    bool turned;  // the weight is (columns, inner), else (inner, columns)
    int64_t columns, activation;
};

// The layers over `rows` rows, fewer than kPacked, the last one into `out`.
inline void layers(const float* x, const Layer* all, int64_t count, float* out, int64_t rows,
                   int64_t inner) {
    alignas(kBytes) float between[2][(kPacked - 1) * kWidest];
    for (int64_t i = 0; i < count; i++) {
        const Layer& layer = all[i];
        float* to = i + 1 < count ? between[i % 2] : out;
        product(x, false, layer.weight, layer.turned, to, rows, layer.columns, inner, false);
        for (int64_t row = 0; row < rows; row++)
            finish(to + row * layer.columns, layer.bias, layer.columns, layer.activation);
        x = to, inner = layer.columns;
    }
}

}  // namespace isocline
