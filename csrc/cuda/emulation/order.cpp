#include "block_scheduler.h"

// The order of the threads of what this thread of the host launches from now on: a value of mrb::emulation::Order.
extern "C" void mrb_emulation_order(int order) { mrb::emulation::order = static_cast<mrb::emulation::Order>(order); }
