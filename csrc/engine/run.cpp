// Interprets an op program: one call is one step of a model, on every thread at once.
//
// A step is one task of the thread team; its threads meet at a barrier between two operators. Between two that both cut
// their work by the same rows there is none, for every thread reads only what it wrote.
#include "engine/run.h"

#include <sched.h>

#include <algorithm>
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
    {op_past, false},  {op_route, true}, {op_experts, false}, {op_collect, false}, {op_blend, true},
    {op_reduce, false}, {op_gather, false},
};

struct Task {
    Run run;
    Barrier barrier;
    int first, stop;
    int at;  // where the step ended, written by the first thread
};

// The buffer whose rows an operator is cut by.
int32_t rows_of(const danlu_op& op) { return op.out < 0 ? op.source : op.out; }

bool alike(const danlu_program& p, int32_t a, int32_t b) {
    return p.buffers[a].rows == p.buffers[b].rows && p.buffers[a].times == p.buffers[b].times;
}

bool free_to_go_on(const danlu_program& p, const danlu_op& before, const danlu_op& op) {
    return kKnown[before.code].by_rows && kKnown[op.code].by_rows && alike(p, rows_of(before), rows_of(op));
}

// Before a thread may go on to an operator that others' rows go into; a prepared input is made row by row.
void enter(Task& task, int i, int part, int parts) {
    const danlu_program& p = *task.run.program;
    const danlu_op& op = p.ops[i];
    if (!needs_ready(p, op)) {
        if (i > task.first && !free_to_go_on(p, p.ops[i - 1], op)) task.barrier.meet(parts);
        return;
    }
    const danlu_op* before = i > task.first ? p.ops + i - 1 : nullptr;
    const bool linear = op.code == OP_LINEAR;
    const bool own = before && linear && kKnown[before->code].by_rows && alike(p, rows_of(*before), op.source);
    if (before && !own) task.barrier.meet(parts);
    (linear ? op_prepare : prepare_experts)(task.run, op, part, parts);
    task.barrier.meet(parts);
}

bool ended(const danlu_program& p) { return p.stop && p.stop->status != DANLU_OK; }

void work(void* arg, int part, int parts) {
    Task& task = *static_cast<Task*>(arg);
    const danlu_program& p = *task.run.program;
    using Clock = std::chrono::steady_clock;
    auto began = Clock::now();
    for (int i = task.first; i < task.stop; i++) {
        const danlu_op& op = p.ops[i];
        enter(task, i, part, parts);
        if (ended(p)) return;  // the threads met since it was said, so all of them see it here
        kKnown[op.code].run(task.run, op, part, parts);
        if (part == 0) task.at = ended(p) ? i : i + 1;
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
    if ((op.code == OP_REDUCE || op.code == OP_GATHER) && (!p.ranks || !p.stop)) return false;
    for (int32_t i : op.weight)
        if (i >= 0 && (p.weights[i].kind < 0 || p.weights[i].kind >= KIND_COUNT)) return false;
    if (op.code == OP_EXPERTS || op.code == OP_COLLECT)  // experts add nothing up: none is kept in 8 bits
        for (int32_t k = 0; k < 3 && op.weight[k] >= 0; k++)
            for (int32_t e = 0; e < op.n[0]; e++)
                if (has_rest(p.weights[op.weight[k] + e])) return false;
    return true;
}

Scratch scratch_of(const danlu_program& p, int64_t tokens, int threads, const danlu_q4_kernels& q4) {
    Scratch most{0, attend_bytes(p)};
    for (int32_t i = 0; i < p.count; i++) {
        const danlu_op& op = p.ops[i];
        if (op.code == OP_EMBED) most.own = std::max(most.own, embed_bytes(p, op));
        if (!needs_ready(p, op)) continue;
        const Scratch here = (op.code == OP_LINEAR ? linear_scratch : experts_scratch)(p, op, q4, tokens, threads);
        most = {std::max(most.ready, here.ready), std::max(most.own, here.own)};
    }
    return {rounded(most.ready), rounded(most.own)};
}

}  // namespace

// Bytes of scratch a program needs for steps of up to `rows` tokens on `threads` threads.
DANLU_API int64_t danlu_engine_scratch_avx2(const danlu_program* p, int64_t rows, int threads) {
    const Scratch s = scratch_of(*p, rows, threads, *danlu_q4_best());
    return rounded(rows * int64_t(sizeof(int32_t))) + s.ready + threads * s.own;
}

// Run operators [first, count) of a program; returns the index of the first that is not known here (count when all ran),
// or -1 for a program of another version or too little scratch. With p->stop said, the index of a sum that another rank
// did not come to: the same call from there on waits again.
DANLU_API int danlu_engine_run_avx2(const danlu_program* p, const danlu_step* step, int first, int threads) {
    if (p->version != kProgramVersion || threads < 1) return -1;
    if (p->scratch_bytes < danlu_engine_scratch_avx2(p, step->rows, threads)) return -1;
    int stop = first;
    while (stop < p->count && known(*p, p->ops[stop])) stop++;
    const danlu_q4_kernels* q4 = danlu_q4_best();
    const Scratch s = scratch_of(*p, step->rows, threads, *q4);
    char* ready = p->scratch + rounded(step->rows * int64_t(sizeof(int32_t)));
    Task task{{p, step, q4, reinterpret_cast<int32_t*>(p->scratch), ready, ready + s.ready, s.own, nullptr}, {}, first, stop, first};
    task.run.barrier = &task.barrier;
    if (p->stop) *p->stop = {DANLU_OK, -1};
    for (int32_t i = 0; i < step->piece_count; i++)
        for (int32_t j = 0; j < step->pieces[i].count; j++) task.run.piece_of[step->pieces[i].row + j] = i;
    if (threads == 1 || !danlu_at_once(threads, work, &task)) work(&task, 0, 1);
    return ended(*p) ? task.at : stop;
}
#endif
