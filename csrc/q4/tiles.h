// The few AMX instructions of amx.cpp by name: eight registers of 16 rows x 64 bytes. Built with DANLU_MODEL_AVX512 they
// are a plain model of what Intel's manual says each does.
//
// In assembly, since a compiler's own names for them want the register's number in the source text, not from a template.
#pragma once

#include <cstdint>
#include <cstring>

#include "q4/bf16.h"

namespace q4 {

constexpr int kTileRows = 16, kTileBytes = 64;  // most of one register

// What ldtilecfg reads: how many rows and bytes of each register are in use.
struct alignas(64) Shapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int count) { bytes[tile] = kTileBytes, rows[tile] = uint8_t(count); }
};
static_assert(sizeof(Shapes) == 64, "as the CPU reads it");

#if defined(DANLU_MODEL_AVX512)
struct Tiles {
    Shapes shapes;
    uint8_t at[8][kTileRows][kTileBytes];
};

inline Tiles& tiles() {
    thread_local Tiles all;
    return all;
}

// ldtilecfg: all registers become zero.
inline void shape_tiles(const Shapes& shapes) {
    std::memset(tiles().at, 0, sizeof tiles().at);
    tiles().shapes = shapes;
}

inline void release_tiles() { shape_tiles({}); }

template <int Tile>
void zero_tile() {
    std::memset(tiles().at[Tile], 0, sizeof tiles().at[Tile]);
}

// tileloadd: rows that are not in use become zero.
template <int Tile>
void load_tile(const void* from, int64_t stride) {
    zero_tile<Tile>();
    for (int r = 0; r < tiles().shapes.rows[Tile]; r++)
        std::memcpy(tiles().at[Tile][r], static_cast<const char*>(from) + r * stride, tiles().shapes.bytes[Tile]);
}

template <int Tile>
void store_tile(void* to, int64_t stride) {
    for (int r = 0; r < tiles().shapes.rows[Tile]; r++)
        std::memcpy(static_cast<char*>(to) + r * stride, tiles().at[Tile][r], tiles().shapes.bytes[Tile]);
}

// tdpbsud: sum[m][n] gains four products of the signed bytes of a[m] and the unsigned ones of b, for each of b's rows.
template <int Sum, int A, int B>
void dot_tiles8() {
    Tiles& t = tiles();
    for (int m = 0; m < t.shapes.rows[Sum]; m++)
        for (int k = 0; k < t.shapes.rows[B]; k++)
            for (int n = 0; n < t.shapes.bytes[Sum] / 4; n++) {
                int32_t sum;
                std::memcpy(&sum, t.at[Sum][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) sum += int8_t(t.at[A][m][4 * k + i]) * int32_t(t.at[B][k][4 * n + i]);
                std::memcpy(t.at[Sum][m] + 4 * n, &sum, 4);
            }
}

// tdpbf16ps: the same of two pairs of bf16, in fp32.
template <int Sum, int A, int B>
void dot_tiles16() {
    Tiles& t = tiles();
    for (int m = 0; m < t.shapes.rows[Sum]; m++)
        for (int k = 0; k < t.shapes.rows[B]; k++)
            for (int n = 0; n < t.shapes.bytes[Sum] / 4; n++) {
                float sum;
                std::memcpy(&sum, t.at[Sum][m] + 4 * n, 4);
                for (int i = 0; i < 4; i += 2)
                    sum = __builtin_fmaf(of_bf16(t.at[A][m] + 4 * k + i), of_bf16(t.at[B][k] + 4 * n + i), sum);
                std::memcpy(t.at[Sum][m] + 4 * n, &sum, 4);
            }
}
#else
inline void shape_tiles(const Shapes& shapes) { __asm__ volatile("ldtilecfg %0" ::"m"(shapes) : "memory"); }
inline void release_tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
template <int Tile>
void zero_tile() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(Tile));
}
template <int Tile>
void load_tile(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
void store_tile(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
}
template <int Sum, int A, int B>
void dot_tiles8() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
}
template <int Sum, int A, int B>
void dot_tiles16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
}
#endif

}  // namespace q4
