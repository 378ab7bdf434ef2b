// Tensors as torch's C interface has them: handles. Nothing of torch is included; it is given as
// a few functions when the library is loaded.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace isocline {

using Handle = void*;  // an at::Tensor on the heap
using Known = void*;   // what Python has of a tensor, `_cdata`; an at::Tensor is that, counted
using Run = int32_t (*)(void*, Handle*, size_t, Handle*, size_t, void*, void*);

struct Torch {  // torch/csrc/inductor/aoti_torch/c/shim.h
  int32_t (*copy_of)(Handle, Handle*);
  int32_t (*release)(Handle);
  int32_t (*data_of)(Handle, void**);
  int32_t (*over)(
      void*, int64_t, const int64_t*, const int64_t*, int64_t, int32_t, int32_t, int32_t, Handle*);
  int32_t (*empty)(
      int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, Handle*);
};

inline Torch torch;

inline void link(void* copy_of, void* release, void* data_of, void* over, void* empty) {
  torch.copy_of = reinterpret_cast<decltype(torch.copy_of)>(copy_of);
  torch.release = reinterpret_cast<decltype(torch.release)>(release);
  torch.data_of = reinterpret_cast<decltype(torch.data_of)>(data_of);
  torch.over = reinterpret_cast<decltype(torch.over)>(over);
  torch.empty = reinterpret_cast<decltype(torch.empty)>(empty);
}

constexpr int32_t FLOAT = 6, DOUBLE = 7, BOOL = 11, CPU = 0;  // torch's codes

struct Failed {};  // a call of torch or of an artifact, which has said why on stderr

inline void demand(int32_t error) {
  if (error) throw Failed{};
}

class Tensor {  // owns a handle
 public:
  Tensor() = default;
  explicit Tensor(Handle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_) torch.release(handle_);
  }

  // A vector of doubles that lie elsewhere.
  static Tensor over(double* data, int64_t size) {
    Tensor made;
    const int64_t stride = 1;
    demand(torch.over(data, 1, &size, &stride, 0, DOUBLE, CPU, 0, &made.handle_));
    return made;
  }

  static Tensor zeros(int64_t size, bool wide) {
    Tensor made;
    const int64_t stride = 1;
    demand(torch.empty(1, &size, &stride, wide ? DOUBLE : FLOAT, CPU, 0, &made.handle_));
    char* bytes = made.data<char>();
    for (int64_t i = 0; i < size * (wide ? 8 : 4); ++i) bytes[i] = 0;
    return made;
  }

  // Nothing is in it yet.
  static Tensor rows(
      int64_t axes, std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides,
      int32_t type) {
    Tensor made;
    demand(torch.empty(axes, sizes.begin(), strides.begin(), type, CPU, 0, &made.handle_));
    return made;
  }

  Handle another() const {  // for one who takes it over
    Handle made = nullptr;
    demand(torch.copy_of(handle_, &made));
    return made;
  }

  template <typename T>
  T* data() const {
    void* found = nullptr;
    demand(torch.data_of(handle_, &found));
    return static_cast<T*>(found);
  }

  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Handle handle_ = nullptr;
};

// Tensors that Python holds at the moment, for as long as they are wanted here.
inline std::vector<Tensor> counted(const Known* known, int64_t count) {
  std::vector<Tensor> found;
  found.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    Handle made = nullptr;
    demand(torch.copy_of(const_cast<Known*>(known + i), &made));
    found.emplace_back(made);
  }
  return found;
}

inline void add(const std::vector<Tensor>& tensors, std::vector<Handle>& inputs) {
  for (const Tensor& tensor : tensors) inputs.push_back(tensor.another());
}

struct Artifact {  // a compiled graph: what runs it, and what that is called with
  Run run;
  void* container;
};

inline std::vector<Tensor> call(
    const Artifact& artifact, std::vector<Handle>& inputs, size_t count) {
  std::vector<Handle> raw(count, nullptr);
  int32_t error = artifact.run(
      artifact.container, inputs.data(), inputs.size(), raw.data(), count, nullptr, nullptr);
  std::vector<Tensor> found;
  found.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    // An artifact gives one handle for results that are one tensor.
    size_t same = std::find(raw.begin(), raw.begin() + i, raw[i]) - raw.begin();
    found.emplace_back(raw[i] && same < i ? found[same].another() : raw[i]);
  }
  demand(error);
  return found;
}

}  // namespace isocline
