// Parts of the loop: the controller, and a step's interpolant.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "task.h"

namespace isocline {

class Controller {  // isocline/controllers/pid.py
 public:
  explicit Controller(const Control& settings) : s_(settings) {}

  // Whether the step is taken; `h` becomes the next length.
  bool decide(double& h, double ratio) {
    if (!s_.adaptive) return std::isfinite(ratio);
    if (!std::isfinite(ratio)) {
      h *= s_.factor_min;
      rejected_ = true;
      return false;
    }
    if (ratio > 1.0) {
      double factor = s_.safety * std::pow(ratio, -1.0 / s_.order);
      h *= std::max(s_.factor_min, std::min(factor, s_.safety));
      rejected_ = true;
      return false;
    }
    double ceiling = rejected_ ? 1.0 : s_.factor_max;
    double factor = std::max(s_.factor_min, std::min(this->factor(ratio), ceiling));
    before_last_ = last_;
    last_ = std::max(ratio, 1e-10);
    rejected_ = false;
    h = std::min(h * factor, s_.max_step);
    return true;
  }

 private:
  double factor(double ratio) const {
    if (ratio == 0.0) return s_.factor_max;
    double p = s_.proportional, i = s_.integral, d = s_.derivative, k = s_.order;
    return s_.safety * std::pow(ratio, -(p + i + d) / k) * std::pow(last_, (p + 2 * d) / k) *
           std::pow(before_last_, -d / k);
  }

  Control s_;
  double last_ = 1.0, before_last_ = 1.0;
  bool rejected_ = false;
};

class Basis {  // h b_j(theta) of a step's interpolant
 public:
  Basis(const Method& method, double t, double t_next, double at) : values(method.rows) {
    double h = t_next - t, theta = (at - t) / h;
    for (int64_t j = 0; j < method.rows; ++j) {
      double power = theta, sum = 0.0;
      for (int64_t m = 0; m < method.degree; ++m, power *= theta - method.centre)
        sum += power * method.weights[j * method.degree + m];
      values[j] = h * sum;
    }
  }
  std::vector<double> values;
};

constexpr int64_t BLOCK = 512;  // elements that are summed at a time, in the nearest cache

template <typename T>
void interpolate(
    const Basis& basis, const T* y, const std::vector<const T*>& slopes, T* out, int64_t size) {
  T sum[BLOCK];
  for (int64_t first = 0; first < size; first += BLOCK) {
    int64_t count = std::min(BLOCK, size - first);
    std::fill(sum, sum + count, T(0));
    for (size_t j = 0; j < slopes.size(); ++j) {
      T weight = static_cast<T>(basis.values[j]);
      const T* slope = slopes[j] + first;
      for (int64_t i = 0; i < count; ++i) sum[i] += weight * slope[i];
    }
    for (int64_t i = 0; i < count; ++i) out[first + i] = y[first + i] + sum[i];
  }
}

template <typename T>
void add(T* to, const T* from, T weight, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] += weight * from[i];
}

struct Taken {  // an accepted step
  double t, t_next;
  int64_t first_row, last_row;  // of output, counted from the first that a step gave
  Tensor y;                     // state at its start; nothing if it is forgotten
  bool keeps;                   // whether it kept what its pull-back needs,
  std::vector<Tensor> kept;     // and that: perhaps nothing
};

}  // namespace isocline
