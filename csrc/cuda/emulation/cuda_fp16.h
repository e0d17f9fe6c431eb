#pragma once

#include "small_floats.h"
