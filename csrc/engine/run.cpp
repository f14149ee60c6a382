// Interprets an op program: one call is one step of a model, on every thread at once.
//
// A step is one task of the thread team; its threads meet at a barrier between two operators. Between two that both cut
// their work by the same rows there is none, for every thread reads only what it wrote.
#include "engine/run.h"

#include <sched.h>

#include <chrono>

#include "core/team.h"

#if defined(__x86_64__)

void Barrier::wait(unsigned now) {
    for (int i = 0; round.load(std::memory_order_acquire) == now; i++) {
        __builtin_ia32_pause();
        if (i > 2000) sched_yield();
    }
}

namespace {

struct Known {
    Operator run;
    bool by_rows;  // every thread reads and writes its own rows only
};

constexpr Known kKnown[OP_COUNT] = {
    {op_embed, true},  {op_take, false}, {op_norm, true},  {op_linear, false}, {op_head_norm, true}, {op_angles, true},
    {op_rope, true},   {op_store, true}, {op_attend, false}, {op_gate, true},  {op_add, true},
};

struct Task {
    Run run;
    Barrier barrier;
    int first, stop;
};

// The buffer whose rows an operator is cut by.
int32_t rows_of(const danlu_program& p, const danlu_op& op) { return p.buffers[op.out < 0 ? op.source : op.out].rows; }

bool free_to_go_on(const danlu_program& p, const danlu_op& before, const danlu_op& op) {
    return kKnown[before.code].by_rows && kKnown[op.code].by_rows && rows_of(p, before) == rows_of(p, op);
}

void work(void* arg, int part, int parts) {
    Task& task = *static_cast<Task*>(arg);
    const danlu_program& p = *task.run.program;
    using Clock = std::chrono::steady_clock;
    auto began = Clock::now();
    for (int i = task.first; i < task.stop; i++) {
        const danlu_op& op = p.ops[i];
        if (i > task.first && !free_to_go_on(p, p.ops[i - 1], op)) task.barrier.meet(parts);
        kKnown[op.code].run(task.run, op, part, parts);
        if (p.seconds && part == 0) {
            const auto now = Clock::now();
            p.seconds[i] += std::chrono::duration<double>(now - began).count();
            began = now;
        }
    }
}

// Whether this file's operators can run it: an unknown code or an unknown kind of weight is left to the caller.
bool known(const danlu_program& p, const danlu_op& op) {
    if (op.code < 0 || op.code >= OP_COUNT) return false;
    for (int32_t i : op.weight)
        if (i >= 0 && (p.weights[i].kind < KIND_FP32 || p.weights[i].kind > KIND_FP16)) return false;
    return true;
}

int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

// Bytes of scratch a program needs for steps of up to `rows` tokens on `threads` threads.
DANLU_API int64_t danlu_engine_scratch_avx2(const danlu_program* p, int64_t rows, int threads) {
    return rounded(rows * int64_t(sizeof(int32_t))) + threads * rounded(attend_bytes(*p));
}

// Run operators [first, count) of a program; returns the index of the first that is not known here (count when all ran),
// or -1 for a program of another version or too little scratch.
DANLU_API int danlu_engine_run_avx2(const danlu_program* p, const danlu_step* step, int first, int threads) {
    if (p->version != kProgramVersion || threads < 1) return -1;
    if (p->scratch_bytes < danlu_engine_scratch_avx2(p, step->rows, threads)) return -1;
    int stop = first;
    while (stop < p->count && known(*p, p->ops[stop])) stop++;
    Task task{{p, step, reinterpret_cast<int32_t*>(p->scratch), nullptr, rounded(attend_bytes(*p))}, {}, first, stop};
    task.run.own = p->scratch + rounded(step->rows * int64_t(sizeof(int32_t)));
    for (int32_t i = 0; i < step->piece_count; i++)
        for (int32_t j = 0; j < step->pieces[i].count; j++) task.run.piece_of[step->pieces[i].row + j] = i;
    if (threads == 1 || !danlu_at_once(threads, work, &task)) work(&task, 0, 1);
    return stop;
}
#endif
