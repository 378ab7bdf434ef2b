// The walk back over the steps of a solve, from the cotangents of its output to that of its start.
//
// A step that kept what its pull-back needs is pulled back from that; such steps are the first ones.
// Where a step begins with the slope that the one before ended with, the slope's cotangent goes from
// one to the other. The others are taken again, their first slope too, so they have none.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "steps.h"

namespace isocline {

template <typename T>
class Walk {
 public:
  Walk(
      const Frame& frame, const std::vector<Taken>& steps, const std::vector<double>& ts,
      const Pull& with)
      : method_(frame.method),
        size_(frame.size),
        wide_(frame.wide),
        steps_(steps),
        ts_(ts),
        with_(with),
        times_{0.0, 0.0, frame.rtol, frame.atol},
        clock_(Tensor::over(times_, 4)),
        end_(zeros(frame.size)) {
    const Known* from = with.given;
    for (auto [count, to] :
         {std::pair(with.of_replay, &of_replay_), std::pair(with.of_kept, &of_kept_),
          std::pair(with.of_start, &of_start_), std::pair(with.totals, &totals_)}) {
      *to = counted(from, count);
      from += count;
    }
    if (method_.rows) slopes_ = zeros(method_.rows * size_);
  }

  // The cotangent of the start.
  Tensor back() {
    for (size_t index = steps_.size(); index-- > 0;) pull(steps_[index]);
    if (link_) {
      const Taken& first = steps_[0];
      std::vector<Handle> inputs = first_inputs(first.t, first.t, first.y);
      inputs.push_back(link_.another());
      std::vector<Tensor> found = called(with_.start, inputs, of_start_, 1);
      add(end_.template data<T>(), found[0].template data<T>(), T(1), size_);
    }
    return std::move(end_);
  }

 private:
  void pull(const Taken& step) {
    bool between = add_output(step), kept = step.keeps, linked = kept && link_;
    std::vector<Handle> inputs = first_inputs(step.t, step.t_next, step.y);
    inputs.push_back(end_.another());
    if (method_.rows) {
      if (linked) add(slope(method_.rows - 1), link_.template data<T>(), T(1), size_);
      inputs.push_back(slopes_.another());
    } else if (kept && method_.fsal) {
      if (!linked) link_ = zeros(size_);
      inputs.push_back(link_.another());
    }
    add(step.kept, inputs);
    const Artifact& artifact = kept ? with_.kept : with_.replay;
    bool links = kept && method_.fsal;
    auto found = called(artifact, inputs, kept ? of_kept_ : of_replay_, 1 + links);
    end_ = std::move(found[0]);
    link_ = links ? std::move(found[1]) : Tensor();
    if (between) add(end_.template data<T>(), at_start_.data(), T(1), size_);
    if (method_.rows && (between || linked)) std::fill_n(slope(0), method_.rows * size_, T(0));
  }

  // Adds what the output of a step says of its end, its start and its slopes; whether it says
  // anything of the latter.
  bool add_output(const Taken& step) {
    bool between = false;
    const T* cotangents = reinterpret_cast<const T*>(with_.cotangents);
    for (int64_t row = step.first_row; row < step.last_row; ++row) {
      const T* cotangent = cotangents + row * size_;
      double at = row < static_cast<int64_t>(ts_.size()) ? ts_[row] : step.t_next;
      if (at == step.t_next) {
        add(end_.template data<T>(), cotangent, T(1), size_);
        continue;
      }
      if (!between) at_start_.assign(size_, T(0));
      between = true;
      add(at_start_.data(), cotangent, T(1), size_);
      Basis basis(method_, step.t, step.t_next, at);
      for (int64_t j = 0; j < method_.rows; ++j)
        add(slope(j), cotangent, static_cast<T>(basis.values[j]), size_);
    }
    return between;
  }

  std::vector<Handle> first_inputs(double t, double t_next, const Tensor& y) {
    times_[0] = t;
    times_[1] = t_next;
    return {clock_.another(), y.another()};
  }

  std::vector<Tensor> called(
      const Artifact& artifact, std::vector<Handle>& inputs, const std::vector<Tensor>& common,
      size_t count) {
    add(common, inputs);
    add(totals_, inputs);
    return call(artifact, inputs, count);
  }

  T* slope(int64_t row) const { return slopes_.template data<T>() + row * size_; }

  Tensor zeros(int64_t size) const { return Tensor::zeros(size, wide_); }

  const Method& method_;
  const int64_t size_;
  const bool wide_;
  const std::vector<Taken>& steps_;
  const std::vector<double>& ts_;
  const Pull& with_;
  double times_[4];  // t, t_next, rtol, atol: what artifacts read through `clock_`
  Tensor clock_;
  std::vector<Tensor> of_replay_, of_kept_, of_start_, totals_;  // given to artifacts
  Tensor end_;                // cotangent of the state at the end of the next step to go back over
  Tensor link_;               // of the slope there, where the step after it kept something
  Tensor slopes_;             // of the slopes of a step; zeros from one step to the next
  std::vector<T> at_start_;   // of the state at its start, by its output
};

}  // namespace isocline
