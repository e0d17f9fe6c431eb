// Dense memory of a map as contiguous rows.
#pragma once

#include <cstdint>

// In NCHW a row has one channel, row modulo `channels`; with `channels_last` a row is a pixel and `length` is
// `channels`.
struct mrb_map_rows {
  int64_t rows, length, channels;
  bool channels_last;
};
