// What a small graph as a function calls, besides kernels.

namespace isocline {

// NaN goes through, as in torch.
template <class T>
T larger(T a, std::type_identity_t<T> b) {
    return a > b || a != a ? a : b;
}

template <class T>
T smaller(T a, std::type_identity_t<T> b) {
    return a < b || a != a ? a : b;
}

inline float tanh_of(float x) {  // as in tanh.py
    typedef float one __attribute__((vector_size(sizeof(float))));
    return rational_tanh(one{x})[0];
}

inline double tanh_of(double x) { return std::tanh(x); }

}  // namespace isocline
