// See ../../README.md: nothing of this header is needed here.
#pragma once
