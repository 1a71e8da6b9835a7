#include <cstdint>

extern "C" int64_t pellucid_abi(void) { return 1; }
