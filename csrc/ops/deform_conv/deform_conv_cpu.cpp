// A few thousand output positions at a time are sampled into a matrix of columns [position, kernel position, channel],
// which a matrix product multiplies with the weights: the memory stays bounded, and the loops over channels, which lie
// side by side, become vector code.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/common/simd.h"
#include "ops/deform_conv/deform_conv.h"

namespace mrb {
namespace {

// Where one kernel position of one output position reads: up to four pixels, their weights, and the derivatives of the
// weights with respect to the sampling point.
template <typename T>
struct Sample {
  int64_t count;
  int64_t pixels[4];
  T weights[4], dy[4], dx[4];
  T mask;

  void set(T y, T x, int64_t height, int64_t width) {
    count = 0;
    if (!(y > -1 && x > -1 && y < static_cast<T>(height) && x < static_cast<T>(width))) return;
    const T y_floor = std::floor(y), x_floor = std::floor(x);
    const auto y0 = static_cast<int64_t>(y_floor), x0 = static_cast<int64_t>(x_floor);
    const T y_part = y - y_floor, x_part = x - x_floor;
    const auto corner = [&](int64_t row, int64_t column, T wy, T wx, T sign_y, T sign_x) {
      if (row < 0 || row >= height || column < 0 || column >= width) return;
      pixels[count] = row * width + column;
      weights[count] = wy * wx;
      dy[count] = sign_y * wx;
      dx[count] = sign_x * wy;
      ++count;
    };
    corner(y0, x0, 1 - y_part, 1 - x_part, -1, -1);
    corner(y0, x0 + 1, 1 - y_part, x_part, -1, 1);
    corner(y0 + 1, x0, y_part, 1 - x_part, 1, -1);
    corner(y0 + 1, x0 + 1, y_part, x_part, 1, 1);
  }
};

// Channels first .. last, which share a convolution group and a deformable group.
struct Segment {
  int64_t first, last, group, deformable_group;
};

template <typename T>
class DeformConv {
 public:
  DeformConv(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask, const at::Tensor& weight,
             const DeformConvGeometry& geometry)
      : geometry_(geometry),
        input_(input.contiguous(at::MemoryFormat::ChannelsLast)),
        offset_(offset.contiguous()),
        mask_(mask.defined() ? mask.contiguous() : mask),
        images_(input.size(0)),
        channels_(input.size(1)),
        height_(input.size(2)),
        width_(input.size(3)),
        out_channels_(weight.size(0)),
        kernel_h_(weight.size(2)),
        kernel_w_(weight.size(3)),
        taps_(kernel_h_ * kernel_w_),
        group_channels_(channels_ / geometry.groups),
        group_outputs_(out_channels_ / geometry.groups) {
    const auto size = deform_conv_output_size(input, weight, geometry);
    out_height_ = size[0];
    out_width_ = size[1];
    // [groups, taps * channels of the group, outputs of the group]
    weight_ = weight.view({geometry.groups, group_outputs_, group_channels_, taps_})
                  .permute({0, 3, 2, 1})
                  .reshape({geometry.groups, taps_ * group_channels_, group_outputs_});
    constexpr int64_t budget = 4 << 20;  // values in the columns: 16 MB of float32
    chunk_ = std::clamp<int64_t>(budget / std::max<int64_t>(taps_ * channels_, 1), 64, std::max<int64_t>(positions(), 64));
    cut_channels();
  }

  at::Tensor forward() {
    auto output = at::empty({images_, positions(), out_channels_}, input_.options());
    for_each_chunk([&](int64_t image, int64_t first, int64_t count) {
      fill_columns(image, count);
      grouped(output, image, first, count).copy_(at::bmm(columns(count), weight_));
    });
    return output.view({images_, out_height_, out_width_, out_channels_}).permute({0, 3, 1, 2});
  }

  std::array<at::Tensor, 4> backward(const at::Tensor& grad_output, const std::array<bool, 4>& wanted) {
    const auto grads = grad_output.permute({0, 2, 3, 1}).contiguous().view({images_, positions(), out_channels_});
    std::array<at::Tensor, 4> result;
    if (wanted[0]) {
      result[0] = at::empty(input_.sizes(), input_.options().memory_format(at::MemoryFormat::ChannelsLast)).zero_();
    }
    if (wanted[1] || wanted[3]) {
      result[1] = at::empty(offset_.sizes(), offset_.options());
      if (mask_.defined()) result[3] = at::empty(mask_.sizes(), mask_.options());
    }
    at::Tensor grad_weight;
    if (wanted[2]) grad_weight = at::zeros(weight_.sizes(), weight_.options());
    const auto weight_transposed = weight_.transpose(1, 2);
    for_each_chunk([&](int64_t image, int64_t first, int64_t count) {
      const auto grad = grouped(grads, image, first, count).contiguous();
      if (wanted[2]) {
        fill_columns(image, count);
        grad_weight.baddbmm_(columns(count).transpose(1, 2), grad);
      }
      if (!wanted[0] && !wanted[1] && !wanted[3]) return;
      const auto grad_columns = at::bmm(grad, weight_transposed);
      if (result[1].defined()) sampling_gradients(grad_columns, image, first, count, result[1], result[3]);
      if (wanted[0]) input_gradient(grad_columns, image, count, result[0]);
    });
    if (wanted[2]) {
      result[2] = grad_weight.view({geometry_.groups, taps_, group_channels_, group_outputs_})
                      .permute({0, 3, 2, 1})
                      .reshape({out_channels_, group_channels_, kernel_h_, kernel_w_});
    }
    return result;
  }

 private:
  int64_t positions() const { return out_height_ * out_width_; }

  // Pieces of at most 16 channels, so that threads can share them.
  void cut_channels() {
    const auto deformable_channels = channels_ / geometry_.deformable_groups;
    for (int64_t c = 0; c < channels_;) {
      const auto group = c / group_channels_, deformable_group = c / deformable_channels;
      const auto last = std::min({(group + 1) * group_channels_, (deformable_group + 1) * deformable_channels, c + 16});
      segments_.push_back({c, last, group, deformable_group});
      c = last;
    }
  }

  // The segments begin .. end, joined where they share both groups.
  std::vector<Segment> joined(int64_t begin, int64_t end) const {
    std::vector<Segment> result;
    for (auto s = begin; s < end; ++s) {
      const auto& segment = segments_[s];
      if (!result.empty() && result.back().group == segment.group &&
          result.back().deformable_group == segment.deformable_group) {
        result.back().last = segment.last;
      } else {
        result.push_back(segment);
      }
    }
    return result;
  }

  template <typename Body>
  void for_each_chunk(const Body& body) {
    columns_ = at::empty({geometry_.groups * chunk_ * taps_ * group_channels_}, input_.options());
    samples_.resize(chunk_ * geometry_.deformable_groups * taps_);
    for (int64_t image = 0; image < images_; ++image) {
      for (int64_t first = 0; first < positions(); first += chunk_) {
        const auto count = std::min(chunk_, positions() - first);
        fill_samples(image, first, count);
        body(image, first, count);
      }
    }
  }

  const Sample<T>& sample(int64_t position, int64_t deformable_group, int64_t tap) const {
    return samples_[(position * geometry_.deformable_groups + deformable_group) * taps_ + tap];
  }

  void fill_samples(int64_t image, int64_t first, int64_t count) {
    const T* offset = offset_.template const_data_ptr<T>();
    const T* mask = mask_.defined() ? mask_.template const_data_ptr<T>() : nullptr;
    at::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
      for (auto p = begin; p < end; ++p) {
        const auto position = first + p;
        const auto y = position / out_width_ * geometry_.stride_h - geometry_.pad_h;
        const auto x = position % out_width_ * geometry_.stride_w - geometry_.pad_w;
        for (int64_t d = 0; d < geometry_.deformable_groups; ++d) {
          for (int64_t tap = 0; tap < taps_; ++tap) {
            const auto plane = (image * geometry_.deformable_groups + d) * taps_ + tap;
            auto& s = samples_[(p * geometry_.deformable_groups + d) * taps_ + tap];
            s.set(static_cast<T>(y + tap / kernel_w_ * geometry_.dilation_h) + offset[2 * plane * positions() + position],
                  static_cast<T>(x + tap % kernel_w_ * geometry_.dilation_w) +
                      offset[(2 * plane + 1) * positions() + position],
                  height_, width_);
            s.mask = mask ? mask[plane * positions() + position] : T(1);
          }
        }
      }
    });
  }

  at::Tensor columns(int64_t count) const {
    return columns_.narrow(0, 0, geometry_.groups * count * taps_ * group_channels_)
        .view({geometry_.groups, count, taps_ * group_channels_});
  }

  // The values of an [N, positions, outputs] tensor at the chunk's positions, as [groups, count, outputs of the group].
  at::Tensor grouped(const at::Tensor& values, int64_t image, int64_t first, int64_t count) const {
    return values.select(0, image)
        .narrow(0, first, count)
        .view({count, geometry_.groups, group_outputs_})
        .transpose(0, 1);
  }

  // Where the channels of `segment` begin in the columns of a position and tap.
  int64_t column(const Segment& segment, int64_t position, int64_t tap, int64_t count) const {
    return ((segment.group * count + position) * taps_ + tap) * group_channels_ + segment.first -
           segment.group * group_channels_;
  }

  void fill_columns(int64_t image, int64_t count) {
    const T* pixels = input_.template const_data_ptr<T>() + image * height_ * width_ * channels_;
    T* out = columns_.template mutable_data_ptr<T>();
    const auto segments = joined(0, static_cast<int64_t>(segments_.size()));
    at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
      const T* rows[4];
      T weights[4];
      for (auto p = begin; p < end; ++p) {
        for (const auto& segment : segments) {
          for (int64_t tap = 0; tap < taps_; ++tap) {
            const auto& s = sample(p, segment.deformable_group, tap);
            for (int64_t k = 0; k < s.count; ++k) {
              rows[k] = pixels + s.pixels[k] * channels_ + segment.first;
              weights[k] = s.weights[k] * s.mask;
            }
            simd::weighted_sum(out + column(segment, p, tap, count), rows, weights, s.count,
                               segment.last - segment.first);
          }
        }
      }
    });
  }

  void input_gradient(const at::Tensor& grad_columns, int64_t image, int64_t count, at::Tensor& grad_input) const {
    const T* grads = grad_columns.template const_data_ptr<T>();
    T* pixels = grad_input.template mutable_data_ptr<T>() + image * height_ * width_ * channels_;
    // Threads share the channels: positions overlap, and so the sums do not depend on the number of threads.
    at::parallel_for(0, static_cast<int64_t>(segments_.size()), 1, [&](int64_t begin, int64_t end) {
      T* rows[4];
      T weights[4];
      for (const auto& segment : joined(begin, end)) {
        for (int64_t p = 0; p < count; ++p) {
          for (int64_t tap = 0; tap < taps_; ++tap) {
            const auto& s = sample(p, segment.deformable_group, tap);
            for (int64_t k = 0; k < s.count; ++k) {
              rows[k] = pixels + s.pixels[k] * channels_ + segment.first;
              weights[k] = s.weights[k] * s.mask;
            }
            simd::weighted_scatter(rows, weights, s.count, grads + column(segment, p, tap, count),
                                   segment.last - segment.first);
          }
        }
      }
    });
  }

  void sampling_gradients(const at::Tensor& grad_columns, int64_t image, int64_t first, int64_t count,
                          at::Tensor& grad_offset, at::Tensor& grad_mask) const {
    const T* grads = grad_columns.template const_data_ptr<T>();
    const T* pixels = input_.template const_data_ptr<T>() + image * height_ * width_ * channels_;
    T* offset = grad_offset.template mutable_data_ptr<T>();
    T* mask = grad_mask.defined() ? grad_mask.template mutable_data_ptr<T>() : nullptr;
    const auto segments = joined(0, static_cast<int64_t>(segments_.size()));
    at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
      for (auto p = begin; p < end; ++p) {
        for (int64_t d = 0; d < geometry_.deformable_groups; ++d) {
          for (int64_t tap = 0; tap < taps_; ++tap) {
            const auto& s = sample(p, d, tap);
            T along_y = 0, along_x = 0, value = 0;
            for (int64_t k = 0; k < s.count; ++k) {
              T product = 0;
              for (const auto& segment : segments) {
                if (segment.deformable_group != d) continue;
                product += simd::dot(grads + column(segment, p, tap, count),
                                     pixels + s.pixels[k] * channels_ + segment.first, segment.last - segment.first);
              }
              along_y += s.dy[k] * product;
              along_x += s.dx[k] * product;
              value += s.weights[k] * product;
            }
            const auto plane = (image * geometry_.deformable_groups + d) * taps_ + tap;
            offset[2 * plane * positions() + first + p] = along_y * s.mask;
            offset[(2 * plane + 1) * positions() + first + p] = along_x * s.mask;
            if (mask) mask[plane * positions() + first + p] = value;
          }
        }
      }
    });
  }

  DeformConvGeometry geometry_;
  at::Tensor input_, offset_, mask_, weight_;
  int64_t images_, channels_, height_, width_, out_channels_, kernel_h_, kernel_w_, taps_;
  int64_t group_channels_, group_outputs_, out_height_, out_width_, chunk_;
  std::vector<Segment> segments_;
  std::vector<Sample<T>> samples_;  // of the current chunk
  at::Tensor columns_;              // of the current chunk
};

}  // namespace

at::Tensor deform_conv_forward_cpu(const at::Tensor& input, const at::Tensor& offset, const at::Tensor& mask,
                                   const at::Tensor& weight, const DeformConvGeometry& geometry) {
  at::Tensor output;
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "deform_conv_forward", [&] {
    output = DeformConv<scalar_t>(input, offset, mask, weight, geometry).forward();
  });
  return output.contiguous(input.suggest_memory_format());
}

std::array<at::Tensor, 4> deform_conv_backward_cpu(const at::Tensor& grad_output, const at::Tensor& input,
                                                   const at::Tensor& offset, const at::Tensor& mask,
                                                   const at::Tensor& weight, const DeformConvGeometry& geometry,
                                                   const std::array<bool, 4>& wanted) {
  std::array<at::Tensor, 4> grads;
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "deform_conv_backward", [&] {
    grads = DeformConv<scalar_t>(input, offset, mask, weight, geometry).backward(grad_output, wanted);
  });
  if (grads[0].defined()) grads[0] = grads[0].contiguous(input.suggest_memory_format());
  return grads;
}

}  // namespace mrb
