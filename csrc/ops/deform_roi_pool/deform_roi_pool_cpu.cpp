// Every bin reads one cell (gh, gw) of the channel groups, so the map is rearranged to [N, cell, H, W, output_dim]: the
// channels of a bin then lie side by side.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/common/simd.h"
#include "ops/deform_roi_pool/deform_roi_pool.h"

namespace mrb {
namespace {

// What one bin of one class reads: pixels (counted over cells and images), weights that add up to 1, and the
// derivatives of the weights with respect to the class's offsets.
template <typename T>
struct Bin {
  std::vector<int64_t> pixels;
  std::vector<T> weights, dx, dy;
  int64_t part_h, part_w;
};

template <typename T>
class Pooling {
 public:
  Pooling(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans, const DeformRoiPoolGeometry& geometry)
      : g_(geometry),
        images_(input.size(0)),
        height_(input.size(2)),
        width_(input.size(3)),
        cells_(geometry.group_size * geometry.group_size),
        classes_(trans.defined() ? trans.size(1) / 2 : 1),
        class_channels_(geometry.output_dim / classes_),
        rois_(rois.contiguous()),
        trans_(trans.defined() ? trans.contiguous() : trans),
        map_(input.reshape({images_, g_.output_dim, cells_, height_, width_}).permute({0, 2, 3, 4, 1}).contiguous()) {}

  at::Tensor forward() const {
    const auto size = g_.pooled_size, channels = g_.output_dim;
    auto output = at::empty({rois_.size(0), size, size, channels}, map_.options());
    const T* map = map_.template const_data_ptr<T>();
    T* out = output.template mutable_data_ptr<T>();
    at::parallel_for(0, rois_.size(0), 1, [&](int64_t begin, int64_t end) {
      Bin<T> bin;
      std::vector<const T*> rows;
      for_each_bin(begin, end, bin, [&](int64_t position, int64_t klass) {
        const auto first = klass * class_channels_;
        rows.clear();
        for (const auto pixel : bin.pixels) rows.push_back(map + pixel * channels + first);
        simd::weighted_sum(out + position * channels + first, rows.data(), bin.weights.data(),
                           static_cast<int64_t>(rows.size()), class_channels_);
      });
    });
    return output.permute({0, 3, 1, 2}).contiguous();
  }

  std::array<at::Tensor, 2> backward(const at::Tensor& grad_output) const {
    const auto grads = grad_output.permute({0, 2, 3, 1}).contiguous();
    auto grad_map = at::zeros(map_.sizes(), map_.options());
    map_gradient(grads, grad_map);
    std::array<at::Tensor, 2> result;
    result[0] = grad_map.permute({0, 4, 1, 2, 3}).reshape({images_, g_.output_dim * cells_, height_, width_});
    if (trans_.defined()) {
      result[1] = at::zeros(trans_.sizes(), trans_.options());
      trans_gradient(grads, result[1]);
    }
    return result;
  }

 private:
  void map_gradient(const at::Tensor& grads, at::Tensor& grad_map) const {
    const auto channels = g_.output_dim;
    const T* grad = grads.template const_data_ptr<T>();
    T* map = grad_map.template mutable_data_ptr<T>();
    // Threads share the channels: RoIs overlap, and so the sums do not depend on the number of threads.
    at::parallel_for(0, channels, 16, [&](int64_t begin, int64_t end) {
      Bin<T> bin;
      std::vector<T*> rows;
      for_each_bin(0, rois_.size(0), bin, [&](int64_t position, int64_t klass) {
        const auto first = std::max(begin, klass * class_channels_);
        const auto last = std::min(end, (klass + 1) * class_channels_);
        if (first >= last) return;
        for (size_t k = 0; k < bin.pixels.size(); ++k) {  // one by one: samples may share a pixel
          T* row = map + bin.pixels[k] * channels + first;
          simd::weighted_scatter(&row, &bin.weights[k], 1, grad + position * channels + first, last - first);
        }
      });
    });
  }

  void trans_gradient(const at::Tensor& grads, at::Tensor& grad_trans) const {
    const auto channels = g_.output_dim;
    const T* grad = grads.template const_data_ptr<T>();
    const T* map = map_.template const_data_ptr<T>();
    T* out = grad_trans.template mutable_data_ptr<T>();
    at::parallel_for(0, rois_.size(0), 1, [&](int64_t begin, int64_t end) {
      Bin<T> bin;
      for_each_bin(begin, end, bin, [&](int64_t position, int64_t klass) {
        const auto first = klass * class_channels_;
        const auto roi = position / (g_.pooled_size * g_.pooled_size);
        T along_x = 0, along_y = 0;
        for (size_t k = 0; k < bin.pixels.size(); ++k) {
          const T product = simd::dot(grad + position * channels + first, map + bin.pixels[k] * channels + first,
                                      class_channels_);
          along_x += bin.dx[k] * product;
          along_y += bin.dy[k] * product;
        }
        out[trans_index(roi, klass, 0, bin)] += along_x;
        out[trans_index(roi, klass, 1, bin)] += along_y;
      });
    });
  }

  int64_t trans_index(int64_t roi, int64_t klass, int64_t axis, const Bin<T>& bin) const {
    return (((roi * classes_ + klass) * 2 + axis) * g_.part_size + bin.part_h) * g_.part_size + bin.part_w;
  }

  // Calls body(position in [R, size, size], class) with `bin` filled.
  template <typename Body>
  void for_each_bin(int64_t first_roi, int64_t last_roi, Bin<T>& bin, const Body& body) const {
    const auto size = g_.pooled_size;
    for (auto roi = first_roi; roi < last_roi; ++roi) {
      for (int64_t ph = 0; ph < size; ++ph) {
        for (int64_t pw = 0; pw < size; ++pw) {
          for (int64_t klass = 0; klass < classes_; ++klass) {
            fill(roi, ph, pw, klass, bin);
            body((roi * size + ph) * size + pw, klass);
          }
        }
      }
    }
  }

  void fill(int64_t roi, int64_t ph, int64_t pw, int64_t klass, Bin<T>& bin) const {
    const T* box = rois_.template const_data_ptr<T>() + roi * 5;
    TORCH_CHECK(box[0] >= 0 && box[0] < static_cast<T>(images_), "deform_roi_pool: RoI of image ", box[0],
                " in a batch of ", images_);
    const T scale = static_cast<T>(g_.spatial_scale), deviation = static_cast<T>(g_.trans_std);
    const T x1 = std::round(box[1]) * scale - T(0.5), y1 = std::round(box[2]) * scale - T(0.5);
    const T roi_width = std::max((std::round(box[3]) + 1) * scale - T(0.5) - x1, T(0.1));
    const T roi_height = std::max((std::round(box[4]) + 1) * scale - T(0.5) - y1, T(0.1));
    const T bin_width = roi_width / g_.pooled_size, bin_height = roi_height / g_.pooled_size;
    const auto scaled = [&](int64_t position, int64_t parts) {
      const auto index = static_cast<int64_t>(std::floor(static_cast<T>(position) / g_.pooled_size * parts));
      return std::clamp<int64_t>(index, 0, parts - 1);
    };
    bin.part_h = scaled(ph, g_.part_size);
    bin.part_w = scaled(pw, g_.part_size);
    T x = pw * bin_width + x1, y = ph * bin_height + y1;
    if (trans_.defined()) {
      const T* offsets = trans_.template const_data_ptr<T>();
      x += offsets[trans_index(roi, klass, 0, bin)] * deviation * roi_width;
      y += offsets[trans_index(roi, klass, 1, bin)] * deviation * roi_height;
    }
    const auto cell = cell_of(ph) * g_.group_size + cell_of(pw);
    const auto base = (static_cast<int64_t>(box[0]) * cells_ + cell) * height_ * width_;

    bin.pixels.clear();
    bin.weights.clear();
    bin.dx.clear();
    bin.dy.clear();
    const T right = static_cast<T>(width_), bottom = static_cast<T>(height_);
    for (int64_t ih = 0; ih < g_.samples_per_part; ++ih) {
      for (int64_t iw = 0; iw < g_.samples_per_part; ++iw) {
        T w = x + iw * (bin_width / g_.samples_per_part), h = y + ih * (bin_height / g_.samples_per_part);
        if (!(w >= T(-0.5) && w <= right - T(0.5) && h >= T(-0.5) && h <= bottom - T(0.5))) continue;
        w = std::clamp(w, T(0), right - 1);
        h = std::clamp(h, T(0), bottom - 1);
        const auto x0 = static_cast<int64_t>(std::floor(w)), x1p = static_cast<int64_t>(std::ceil(w));
        const auto y0 = static_cast<int64_t>(std::floor(h)), y1p = static_cast<int64_t>(std::ceil(h));
        const T px = w - x0, py = h - y0;
        push(bin, base + y0 * width_ + x0, (1 - px) * (1 - py), -(1 - py), -(1 - px));
        push(bin, base + y0 * width_ + x1p, px * (1 - py), 1 - py, -px);
        push(bin, base + y1p * width_ + x0, (1 - px) * py, -py, 1 - px);
        push(bin, base + y1p * width_ + x1p, px * py, py, px);
      }
    }
    const T share = T(4) / std::max<size_t>(bin.pixels.size(), 1);  // one over the number of samples
    for (size_t k = 0; k < bin.pixels.size(); ++k) {
      bin.weights[k] *= share;
      bin.dx[k] *= share * deviation * roi_width;
      bin.dy[k] *= share * deviation * roi_height;
    }
  }

  int64_t cell_of(int64_t position) const {
    const auto index =
        static_cast<int64_t>(std::floor(static_cast<T>(position) * g_.group_size / g_.pooled_size));
    return std::clamp<int64_t>(index, 0, g_.group_size - 1);
  }

  static void push(Bin<T>& bin, int64_t pixel, T weight, T dx, T dy) {
    bin.pixels.push_back(pixel);
    bin.weights.push_back(weight);
    bin.dx.push_back(dx);
    bin.dy.push_back(dy);
  }

  DeformRoiPoolGeometry g_;
  int64_t images_, height_, width_, cells_, classes_, class_channels_;
  at::Tensor rois_, trans_, map_;
};

}  // namespace

at::Tensor deform_roi_pool_forward_cpu(const at::Tensor& input, const at::Tensor& rois, const at::Tensor& trans,
                                       const DeformRoiPoolGeometry& geometry) {
  at::Tensor output;
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "deform_roi_pool_forward", [&] {
    output = Pooling<scalar_t>(input, rois, trans, geometry).forward();
  });
  return output;
}

std::array<at::Tensor, 2> deform_roi_pool_backward_cpu(const at::Tensor& grad_output, const at::Tensor& input,
                                                       const at::Tensor& rois, const at::Tensor& trans,
                                                       const DeformRoiPoolGeometry& geometry) {
  std::array<at::Tensor, 2> grads;
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "deform_roi_pool_backward", [&] {
    grads = Pooling<scalar_t>(input, rois, trans, geometry).backward(grad_output);
  });
  return grads;
}

}  // namespace mrb
