// Workers live for the whole process: a token is hundreds of calls, and starting a thread costs more than most of them.
#include "core/team.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace {

// Calls of one token follow each other within microseconds: a worker looks this often before it sleeps.
constexpr int kLooks = 4000;

struct Team {
    std::mutex in_use, gate;
    std::condition_variable wake;
    std::atomic<unsigned> call{0};  // counts the calls; a worker waits for the next number
    std::atomic<int> running{0};
    void (*work)(void*, int, int) = nullptr;
    void* arg = nullptr;
    int parts = 1, workers = 0;

    void serve(int part, unsigned seen) {
        for (;;) {
            for (int i = 0; i < kLooks && call.load(std::memory_order_acquire) == seen; i++) {
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
            {
                std::unique_lock<std::mutex> lock(gate);
                wake.wait(lock, [&] { return call.load(std::memory_order_acquire) != seen; });
                seen = call.load(std::memory_order_acquire);
            }
            if (part < parts) work(arg, part, parts);
            running.fetch_sub(1, std::memory_order_release);
        }
    }

    bool grow(int wanted) {
        while (workers < wanted) {
            try {
                std::thread(&Team::serve, this, workers + 1, call.load()).detach();
            } catch (const std::system_error&) {
                return false;
            }
            workers++;
        }
        return true;
    }

    void together(int want, void (*what)(void*, int, int), void* with) {
        {
            std::lock_guard<std::mutex> lock(gate);
            work = what, arg = with, parts = want;
            running.store(workers, std::memory_order_relaxed);
            call.fetch_add(1, std::memory_order_release);
        }
        wake.notify_all();
        what(with, 0, want);
        for (int i = 0; running.load(std::memory_order_acquire) != 0; i++)
            if (i > kLooks) std::this_thread::yield();
    }
};

// Never destroyed: workers may still be asleep in it when the process ends.
std::atomic<Team*> team{nullptr};
std::once_flag watch_forks;

// A forked child has the team's memory but none of its threads, so it starts a new team.
void forget() { team.store(nullptr); }

Team* current() {
    std::call_once(watch_forks, [] { pthread_atfork(nullptr, nullptr, forget); });
    Team* found = team.load();
    if (found) return found;
    Team* fresh = new (std::nothrow) Team;
    if (fresh && !team.compare_exchange_strong(found, fresh)) {
        delete fresh;
        return found;
    }
    return fresh;
}

}  // namespace

bool danlu_at_once(int parts, void (*work)(void*, int, int), void* arg) {
    Team* mine = current();
    if (!mine || !mine->in_use.try_lock()) return false;
    const bool ready = mine->grow(parts - 1);
    if (ready) mine->together(parts, work, arg);
    mine->in_use.unlock();
    return ready;
}

void danlu_together(int parts, void (*work)(void*, int, int), void* arg) {
    if (parts > 1 && danlu_at_once(parts, work, arg)) return;
    for (int part = 0; part < parts; part++) work(arg, part, parts);
}
