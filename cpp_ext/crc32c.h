// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) of a file's blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace likewise {

// out[b] covers data[b * block_bytes : (b + 1) * block_bytes], the last block what is left.
// Expects block_bytes >= 1 and out.size() == ceil(data.size() / block_bytes).
void crc32c(std::span<const uint8_t> data, size_t block_bytes, std::span<uint32_t> out);

}  // namespace likewise
