// What Python hands over and is handed back. The layouts stand in binding.py too.

#pragma once

#include <cstdint>
#include <vector>

#include "tensors.h"

namespace isocline {

struct Method {
  int64_t fsal;           // whether a step is handed the slope at its start
  int64_t rows, degree;   // of the interpolant's weights; no rows where slopes are not wanted
  const double* weights;  // (rows, degree); they outlive every solve
  double centre;
};

struct Frame {  // what all solves of one field with one method and tolerance have in common
  Method method;
  Artifact start, step;
  double rtol, atol;
  int64_t size;    // elements of a state
  int64_t wide;    // whether they are doubles
  int64_t of_step, of_start;  // number of inputs after an artifact's own
};

struct Control {  // bounds, and the settings of PID; for Constant, `adaptive` is 0
  double min_step, max_step;
  double proportional, integral, derivative, safety, factor_min, factor_max, order;
  int64_t adaptive;
};

struct Task {
  double t0, t1, h;  // h is NaN where the first step is to be chosen
  int64_t max_steps;
  const double* targets;  // step ends to be met; the last of them comes first
  int64_t target_count;
  const double* ts;  // output times after t0, in the order in which they are met
  int64_t ts_count;
  int64_t keeps_t1;
  char* out;        // rows of output
  int64_t records;  // whether the states at starts of steps are kept
  int64_t keeps;    // how many accepted steps keep what their pull-back needs,
  int64_t kept;     // and how many tensors that is for each
};

enum Pause : int32_t { TURN = 0, ENDED, STEP_WANTED };

enum Status : int64_t { GOING = 0, SUCCESS, MAX_STEPS, UNDERFLOW_, NON_FINITE, BROKEN };

struct Report {
  int64_t status;
  double t, h;
  int64_t accepted, rejected, rows, saved_t1;
};

struct Pull {
  Artifact replay, kept, start;  // for steps taken again, those that kept something, and a slope
  // Inputs of each after its own, and what the gradients of the field's tensors are added to.
  const Known* given;
  int64_t of_replay, of_kept, of_start, totals;
  const char* cotangents;  // of the rows that steps gave
};

}  // namespace isocline
