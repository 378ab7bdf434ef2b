// Rounds of per-sample stepping of which only the lanes need know, and the walk back over such.
//
// A round is one call of an artifact (isocline/compile/lane_formulas.py), which says in a few
// numbers what it found. As long as few lanes are done and none is lost or past an output time, what
// it gives is what the next one is given.

#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "tensors.h"

namespace isocline {

struct Rounds {
  Artifact round;
  const Known* given;    // its inputs
  const int64_t* from;   // for each input the output that the next round is given in its place, or -1
  int64_t inputs, outputs;
  int64_t t, y;          // which inputs those are
  int64_t lanes, rest;   // how many lanes there are, and are at rest
  int64_t done;          // how many may be done, with those
  double least;          // a next step that is shorter, or as short, is for others to judge
  int64_t most;          // rounds
  int64_t records;       // whether it is kept where rounds started and ended
};

class Skipping {
 public:
  explicit Skipping(const Rounds& task)
      : task_(task),
        from_(task.from, task.from + task.inputs),
        inputs_(counted(task.given, task.inputs)) {}

  // Take rounds until one of them is not quiet, or for some seconds.
  void go(double seconds) {
    using Clock = std::chrono::steady_clock;
    auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (count_ < task_.most && Clock::now() < end) {
      std::vector<Handle> handles;
      add(inputs_, handles);
      found_ = call(task_.round, handles, task_.outputs);
      if (!quiet(found_[0].data<double>())) return;
      go_on();
    }
  }

  int64_t count() const { return count_; }

  // Hands over what the last round found if it was not quiet, what the next one would be given, and
  // of each quiet round t, the t of the next, and y; null where there is nothing.
  void take(Handle* out) {
    for (int64_t i = 0; i < task_.outputs; ++i)
      *out++ = found_.empty() ? nullptr : found_[i].another();
    for (const Tensor& input : inputs_) *out++ = input.another();
    for (const Tensor& record : records_) *out++ = record.another();
  }

 private:
  bool quiet(const double* marks) const {
    double worst = marks[0], rejected = marks[1], arrived = marks[2], shortest = marks[3];
    return std::isfinite(worst) && rejected + task_.rest < task_.lanes && arrived <= task_.done &&
           shortest > task_.least && marks[4] == 0.0;
  }

  void go_on() {
    if (task_.records) {
      records_.push_back(std::move(inputs_[task_.t]));
      records_.emplace_back(found_[from_[task_.t]].another());
      records_.push_back(std::move(inputs_[task_.y]));
    }
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (from_[i] >= 0) inputs_[i] = std::move(found_[from_[i]]);
    found_.clear();
    ++count_;
  }

  const Rounds task_;
  const std::vector<int64_t> from_;
  std::vector<Tensor> inputs_, found_, records_;
  int64_t count_ = 0;
};

struct RoundPulls {
  Artifact pull;
  const Known* rounds;   // of each round, the last first: t, where its steps end, y
  int64_t count;
  const Known* given;    // the tolerances, the cotangent of the end, and what follows in each call
  int64_t after;         // how many inputs that last is
};

// The cotangent of the start of the first of those rounds.
inline Tensor pulled(const RoundPulls& task) {
  std::vector<Tensor> first = counted(task.given, 2), after = counted(task.given + 2, task.after);
  std::vector<Tensor> rounds = counted(task.rounds, 3 * task.count);
  Tensor clock = std::move(first[0]), end = std::move(first[1]);
  for (int64_t i = 0; i < task.count; ++i) {
    std::vector<Handle> handles{clock.another()};
    for (int64_t j = 0; j < 3; ++j) handles.push_back(rounds[3 * i + j].another());
    handles.push_back(end.another());
    add(after, handles);
    end = std::move(call(task.pull, handles, 1)[0]);
  }
  return end;
}

}  // namespace isocline
