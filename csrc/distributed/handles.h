// What the opaque handles of api.h hold.
#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

struct mrb_store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct mrb_process_group {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
};
