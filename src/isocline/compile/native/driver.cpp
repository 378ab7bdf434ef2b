// A whole solve over compiled steps, and the walk back over it, without Python in between.
//
// The loop is that of isocline/integrate/loop.py with the controllers PID and Constant, to the last
// bit; output between steps is that of DensePiece.at (isocline/solvers/base.py), up to rounding.
// Each step and each pull-back is one call of an artifact of AOTInductor by its C interface
// (torch/csrc/inductor/aoti_runtime/interface.h), whose inputs are handles of tensors that the
// artifact takes over.

#include "rounds.h"
#include "steps.h"
#include "walk.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <vector>

namespace isocline {

// --- a solve -------------------------------------------------------------------------------------

class Solve {
 public:
  // Given: what a step is given after its own inputs, the same of the start, the state there, and
  // perhaps the slope.
  Solve(
      const Frame& frame, const Control& control, const Task& task, const Known* given,
      int64_t count)
      : frame_(frame),
        control_(control),
        task_(task),
        controller_(control),
        step_(frame.step),
        keeping_(task.keeps > 0),
        targets_(task.targets, task.targets + task.target_count),
        ts_(task.ts, task.ts + task.ts_count),
        of_step_(counted(given, frame.of_step)),
        of_start_(counted(given + frame.of_step, frame.of_start)),
        t_(task.t0),
        h_(task.h),
        sign_(task.t1 >= task.t0 ? 1.0 : -1.0),
        times_{0.0, 0.0, frame.rtol, frame.atol},
        clock_(Tensor::over(times_, 4)) {
    const int64_t first = frame.of_step + frame.of_start;
    auto own = counted(given + first, count - first);
    y_ = std::move(own[0]);
    if (own.size() > 1) slope_ = std::move(own[1]);
  }

  // Go on for some seconds, or until the solve has ended or wants other steps.
  Pause drive(double seconds) {
    using Clock = std::chrono::steady_clock;
    auto end = Clock::now() + std::chrono::duration<double>(seconds);
    try {
      if (std::isnan(h_) && status_ == GOING) begin();
      while (status_ == GOING) {
        if (targets_.empty()) {
          status_ = SUCCESS;
        } else if (accepted_ + rejected_ == task_.max_steps) {
          status_ = MAX_STEPS;
        } else if (keeping_ && accepted_ == task_.keeps) {
          return STEP_WANTED;
        } else {
          attempt();
          if (status_ == GOING && Clock::now() >= end) return TURN;
        }
      }
    } catch (...) {
      status_ = BROKEN;
    }
    return ENDED;
  }

  // From here on, steps that keep nothing.
  void resume(const Artifact& step, const Known* given, int64_t count) {
    keeping_ = false;
    step_ = step;
    of_step_ = counted(given, count);
  }

  Report report() const {
    return {status_, t_, h_, accepted_, rejected_, rows_, saved_t1_};
  }

  // The state that was not finite, or the slope.
  Handle culprit() const { return culprit_ ? culprit_.another() : nullptr; }

  const std::vector<Taken>& steps() const { return steps_; }

  const Tensor& state(size_t index) const {
    return index < steps_.size() ? steps_[index].y : y_;
  }

  // Lets go of all states but the first, and of what steps kept.
  void forget() {
    for (size_t i = 0; i < steps_.size(); ++i) {
      if (i) steps_[i].y = Tensor();
      steps_[i].kept.clear();
    }
    if (!steps_.empty()) y_ = Tensor();
    of_step_.clear();
    of_start_.clear();
  }

  // The cotangent of the start.
  Tensor pull(const Pull& with) const {
    if (frame_.wide) return Walk<double>(frame_, steps_, ts_, with).back();
    return Walk<float>(frame_, steps_, ts_, with).back();
  }

 private:
  void begin() {
    std::vector<Handle> inputs = first_inputs(task_.t0, task_.t1);
    add(of_start_, inputs);
    auto found = call(frame_.start, inputs, 2);
    h_ = *found[1].data<double>();
    if (std::isnan(h_)) {
      status_ = NON_FINITE;
      culprit_ = std::move(found[0]);
    } else if (frame_.method.fsal) {
      slope_ = std::move(found[0]);
    }
  }

  std::vector<Handle> first_inputs(double t, double t_next) {
    times_[0] = t;
    times_[1] = t_next;
    std::vector<Handle> inputs;
    inputs.reserve(of_step_.size() + of_start_.size() + 3);
    inputs.push_back(clock_.another());
    inputs.push_back(y_.another());
    return inputs;
  }

  void attempt() {
    double t_next = next_time(), h = std::abs(t_next - t_);
    if (h < shortest() && t_next != targets_.back()) {
      status_ = finite_ ? UNDERFLOW_ : NON_FINITE;
      return;
    }
    std::vector<Handle> inputs = first_inputs(t_, t_next);
    if (frame_.method.fsal) inputs.push_back(slope_.another());
    add(of_step_, inputs);
    auto found = call(step_, inputs, first_kept() + (keeping_ ? task_.kept : 0));
    double ratio = *found[1].data<double>();
    if (controller_.decide(h, ratio)) {
      accept(t_next, h, found);
    } else {
      reject(h, ratio, found);
    }
  }

  // Results of a step before those that it keeps: state, ratio, slopes.
  int64_t first_kept() const {
    const Method& method = frame_.method;
    return 2 + method.fsal + (method.rows ? method.rows - 2 * method.fsal : 0);
  }

  double next_time() {
    double target = targets_.back();
    tried_ = std::min(std::max(h_, control_.min_step), control_.max_step);
    if (std::abs(target - t_) <= tried_ * (1.0 + 1e-5)) return target;
    return t_ + sign_ * tried_;
  }

  double shortest() const {
    double span = std::abs(task_.t1 - task_.t0), least = std::isfinite(span) ? 1e-6 * span : 0.0;
    double size = std::max(std::abs(t_), least);
    return 4 * (std::nextafter(size, std::numeric_limits<double>::infinity()) - size);
  }

  void accept(double t_next, double h, std::vector<Tensor>& found) {
    int64_t before = rows_;
    if (frame_.wide) {
      save<double>(t_next, found);
    } else {
      save<float>(t_next, found);
    }
    double target = targets_.back();
    bool cut_short = t_next == target && std::abs(t_next - t_) < tried_;
    h_ = cut_short ? std::max(tried_, h) : h;
    ++accepted_;
    finite_ = true;
    if (task_.records) {
      std::vector<Tensor> kept(
          std::make_move_iterator(found.begin() + first_kept()),
          std::make_move_iterator(found.end()));
      steps_.push_back({t_, t_next, before, rows_, std::move(y_), keeping_, std::move(kept)});
    }
    t_ = t_next;
    y_ = std::move(found[0]);
    if (frame_.method.fsal) slope_ = std::move(found[2]);
    if (t_next == target) targets_.pop_back();
  }

  void reject(double h, double ratio, std::vector<Tensor>& found) {
    ++rejected_;
    h_ = h;
    finite_ = std::isfinite(ratio);
    if (tried_ > control_.min_step && h >= shortest() && control_.adaptive) return;
    status_ = finite_ ? UNDERFLOW_ : NON_FINITE;
    if (!finite_) culprit_ = std::move(found[0]);
  }

  template <typename T>
  void save(double end, const std::vector<Tensor>& found) {
    while (next_ < ts_.size() && sign_ * ts_[next_] <= sign_ * end) {
      double at = ts_[next_++];
      if (at == end) {
        write(found[0].data<T>());
      } else {
        Basis basis(frame_.method, t_, end, at);
        interpolate(basis, y_.data<T>(), slopes<T>(found), row<T>(rows_++), frame_.size);
      }
    }
    if (task_.keeps_t1 && end == task_.t1) {
      write(found[0].data<T>());
      saved_t1_ = 1;
    }
  }

  template <typename T>
  T* row(int64_t index) const {
    return reinterpret_cast<T*>(task_.out) + index * frame_.size;
  }

  template <typename T>
  void write(const T* state) {
    std::memcpy(row<T>(rows_++), state, frame_.size * sizeof(T));
  }

  template <typename T>
  std::vector<const T*> slopes(const std::vector<Tensor>& found) const {
    std::vector<const T*> all;
    if (frame_.method.fsal) all.push_back(slope_.data<T>());
    for (int64_t i = 2 + frame_.method.fsal; i < first_kept(); ++i)
      all.push_back(found[i].data<T>());
    if (frame_.method.fsal) all.push_back(found[2].data<T>());
    return all;
  }

  const Frame frame_;
  const Control control_;
  const Task task_;
  Controller controller_;
  Artifact step_;  // takes the steps, and keeps what the way back needs of them, or does not
  bool keeping_;
  std::vector<double> targets_, ts_;
  std::vector<Tensor> of_step_, of_start_;  // what artifacts are given after their own inputs
  Tensor y_, slope_, culprit_;
  double t_, h_, sign_;
  double times_[4];  // t, t_next, rtol, atol: what artifacts read through `clock_`
  Tensor clock_;
  double tried_ = 0.0;
  size_t next_ = 0;  // output time
  int64_t accepted_ = 0, rejected_ = 0, rows_ = 0, saved_t1_ = 0;
  bool finite_ = true;
  Status status_ = GOING;
  std::vector<Taken> steps_;
};

}  // namespace isocline

using namespace isocline;

extern "C" {

void isocline_link(void* copy_of, void* release, void* data_of, void* over, void* empty) {
  link(copy_of, release, data_of, over, empty);
}

// Where the elements of a tensor of Python lie; null where that cannot be found out.
void* isocline_data(const Known* known) {
  try {
    return counted(known, 1)[0].data<void>();
  } catch (...) {
    return nullptr;
  }
}

void* isocline_begin(
    const Frame* frame, const Control* control, const Task* task, const Known* given,
    int64_t count) {
  try {
    return new Solve(*frame, *control, *task, given, count);
  } catch (...) {
    return nullptr;
  }
}

int32_t isocline_drive(void* solve, double seconds, Report* report) {
  Pause pause = static_cast<Solve*>(solve)->drive(seconds);
  *report = static_cast<Solve*>(solve)->report();
  return pause;
}

int32_t isocline_resume(void* solve, const Artifact* step, const Known* given, int64_t count) {
  try {
    static_cast<Solve*>(solve)->resume(*step, given, count);
    return 0;
  } catch (...) {
    return 1;
  }
}

Handle isocline_culprit(void* solve) { return static_cast<Solve*>(solve)->culprit(); }

int64_t isocline_count(void* solve) { return static_cast<Solve*>(solve)->steps().size(); }

// Ends of the steps (n, 2), and from which to which row of output each gave (n, 2).
void isocline_steps(void* solve, double* ends, int64_t* rows) {
  for (const Taken& step : static_cast<Solve*>(solve)->steps()) {
    *ends++ = step.t;
    *ends++ = step.t_next;
    *rows++ = step.first_row;
    *rows++ = step.last_row;
  }
}

// The state that a step started from; for the number of the steps, the one at the end.
Handle isocline_state(void* solve, int64_t index) {
  try {
    return static_cast<Solve*>(solve)->state(index).another();
  } catch (...) {
    return nullptr;
  }
}

Handle isocline_pull(void* solve, const Pull* with) {
  try {
    return static_cast<Solve*>(solve)->pull(*with).another();
  } catch (...) {
    return nullptr;
  }
}

void isocline_forget(void* solve) { static_cast<Solve*>(solve)->forget(); }

void isocline_free(void* solve) { delete static_cast<Solve*>(solve); }

// Rounds of per-sample stepping; null if one of them failed. `count` is how many were quiet.
void* isocline_skip(const Rounds* task, double seconds, int64_t* count) {
  try {
    auto skipping = std::make_unique<Skipping>(*task);
    skipping->go(seconds);
    *count = skipping->count();
    return skipping.release();
  } catch (...) {
    return nullptr;
  }
}

// Hands everything over, and lets go of the rounds.
void isocline_take(void* skipping, Handle* out) {
  static_cast<Skipping*>(skipping)->take(out);
  delete static_cast<Skipping*>(skipping);
}

Handle isocline_pull_rounds(const RoundPulls* task) {
  try {
    return pulled(*task).another();
  } catch (...) {
    return nullptr;
  }
}

}  // extern "C"
