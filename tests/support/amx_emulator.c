/* Emulates the AMX instructions that the native backend uses, on a processor that does not know them: they raise
 * SIGILL, and the handler does what they would have done. Preloaded into a process of its own, it also answers in the
 * place of the backend's question whether there is AMX. What runs is the backend's own machine code, instruction by
 * instruction.
 *
 * Source of the semantics: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, BYTES = 64 };

struct configuration {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

static __thread struct configuration configuration;
static __thread uint8_t tiles[TILES][ROWS][BYTES];
static unsigned long products;

bool tokenprune_amx_is_available(void) { return true; }

static const int REGISTERS[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* An instruction with a three-byte VEX prefix. */
struct instruction {
  int map, prefix, opcode, mode, reg, rm, second, length;
  int64_t address, stride;
};

static bool decode(const uint8_t* code, const greg_t* registers, struct instruction* it) {
  if (code[0] != 0xc4) return false;
  const int high_reg = ~code[1] >> 7 & 1, high_index = ~code[1] >> 6 & 1, high_base = ~code[1] >> 5 & 1;
  it->map = code[1] & 31;
  it->prefix = code[2] & 3;
  it->second = ~code[2] >> 3 & 15;
  it->opcode = code[3];
  it->mode = code[4] >> 6;
  it->reg = (code[4] >> 3 & 7) | high_reg << 3;
  it->rm = (code[4] & 7) | high_base << 3;
  it->length = 5;
  it->address = it->stride = 0;
  if (it->mode == 3) return true;
  bool based = true;
  if ((it->rm & 7) == 4) {
    const uint8_t sib = code[it->length++];
    const int index = (sib >> 3 & 7) | high_index << 3, base = (sib & 7) | high_base << 3;
    if (index != 4) it->stride = registers[REGISTERS[index]] * (INT64_C(1) << (sib >> 6));
    based = !((base & 7) == 5 && it->mode == 0);
    if (based) it->address = registers[REGISTERS[base]];
  } else if ((it->rm & 7) == 5 && it->mode == 0) {
    int32_t displacement;
    memcpy(&displacement, code + it->length, 4);
    it->length += 4;
    it->address = (int64_t)(code + it->length) + displacement;
    return true;
  } else {
    it->address = registers[REGISTERS[it->rm]];
  }
  if (it->mode == 1) it->address += (int8_t)code[it->length++];
  if (it->mode == 2 || !based) {
    int32_t displacement;
    memcpy(&displacement, code + it->length, 4);
    it->address += displacement;
    it->length += 4;
  }
  return true;
}

__attribute__((target("avx512f"))) static void multiply(int c, int a, int b) {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(0x9fc0); /* subnormals are zeros on both sides, round to nearest, no exceptions */
  const __m512i high = _mm512_set1_epi32((int)0xffff0000);
  for (int m = 0; m < configuration.rows[c]; ++m) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < configuration.bytes[a] / 4; ++k) {
      int32_t pair;
      memcpy(&pair, &tiles[a][m][4 * k], 4);
      const __m512i pair_a = _mm512_set1_epi32(pair), pair_b = _mm512_loadu_si512(tiles[b][k]);
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pair_a, 16)),
                             _mm512_castsi512_ps(_mm512_slli_epi32(pair_b, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(pair_a, high)),
                            _mm512_castsi512_ps(_mm512_and_si512(pair_b, high)), odd);
    }
    _mm512_storeu_ps(tiles[c][m], _mm512_add_ps(_mm512_loadu_ps(tiles[c][m]), _mm512_add_ps(even, odd)));
  }
  _mm_setcsr(saved);
  __atomic_add_fetch(&products, 1, __ATOMIC_RELAXED);
}

static bool run(const struct instruction* it) {
  enum { NONE, P66, PF3, PF2 };
  if (it->map != 2) return false;
  if (it->opcode == 0x49 && it->prefix == NONE) { /* ldtilecfg, tilerelease */
    memset(tiles, 0, sizeof tiles);
    if (it->mode == 3)
      memset(&configuration, 0, sizeof configuration);
    else
      memcpy(&configuration, (void*)it->address, sizeof configuration);
    return true;
  }
  const bool configured = configuration.palette == 1;
  if (!configured || it->reg >= TILES) return false;
  if (it->opcode == 0x49 && it->prefix == PF2 && it->mode == 3) { /* tilezero */
    memset(tiles[it->reg], 0, sizeof tiles[0]);
    return true;
  }
  if (it->opcode == 0x4b && it->mode != 3 && (it->prefix == PF2 || it->prefix == PF3)) { /* tileloadd, tilestored */
    for (int row = 0; row < configuration.rows[it->reg]; ++row) {
      uint8_t* memory = (uint8_t*)(it->address + row * it->stride);
      if (it->prefix == PF2)
        memcpy(tiles[it->reg][row], memory, configuration.bytes[it->reg]);
      else
        memcpy(memory, tiles[it->reg][row], configuration.bytes[it->reg]);
    }
    return true;
  }
  if (it->opcode == 0x5c && it->prefix == PF3 && it->mode == 3) { /* tdpbf16ps */
    multiply(it->reg, it->rm & 7, it->second);
    return true;
  }
  return false;
}

static void handle(int number, siginfo_t* info, void* context) {
  (void)info;
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  struct instruction it;
  if (decode((const uint8_t*)registers[REG_RIP], registers, &it) && run(&it)) {
    registers[REG_RIP] += it.length;
    return;
  }
  signal(number, SIG_DFL);
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGILL, &action, NULL);
}

/* Whether tiles were multiplied at all. */
unsigned long amx_emulator_products(void) { return products; }
