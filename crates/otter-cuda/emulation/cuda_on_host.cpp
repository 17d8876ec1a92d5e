// The scheduler of the emulation: see cuda_on_host.h.
#include "cuda_on_host.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace emulation {

dim3 block_index, block_size, grid_size;
Thread* current;
unsigned char* dynamic_shared;

namespace {

constexpr std::size_t STACK = 64 << 10;
constexpr unsigned WARP = 32;

enum class State { Ready, AtBlockBarrier, AtWarpBarrier, Done };

struct Fiber {
    Thread thread;
    State state;
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
};

std::map<std::string, Body>& kernels() {
    static std::map<std::string, Body> all;
    return all;
}

std::vector<Fiber> fibers;
std::vector<unsigned long long> slots;
ucontext_t scheduler;
Body body;
void** body_arguments;
const char* running;

Fiber& fiber() { return fibers[current->linear]; }

void wait(State state) {
    fiber().state = state;
    if (swapcontext(&fiber().context, &scheduler) != 0) fail("swapcontext");
}

void enter() {
    body(body_arguments);
    wait(State::Done);
}

// Runs the threads of a warp to a barrier of the block, or to their end.
void run_warp(unsigned first, unsigned last) {
    while (true) {
        for (unsigned i = first; i < last; i++) {
            if (fibers[i].state != State::Ready) continue;
            current = &fibers[i].thread;
            if (swapcontext(&scheduler, &fibers[i].context) != 0) fail("swapcontext");
        }
        unsigned waiting = 0;
        for (unsigned i = first; i < last; i++) waiting += fibers[i].state == State::AtWarpBarrier;
        if (waiting == 0) return;
        if (waiting != last - first) fail("only some threads of a warp take part in a shuffle, warp barrier or product");
        for (unsigned i = first; i < last; i++) fibers[i].state = State::Ready;
    }
}

// Lets the threads go on that stand at the barrier of the block, where all of them do.
bool release() {
    unsigned waiting = 0, done = 0;
    for (Fiber& each : fibers) {
        waiting += each.state == State::AtBlockBarrier;
        done += each.state == State::Done;
    }
    if (waiting == 0) return false;
    if (done != 0) fail("some threads of a block ended while others wait at a barrier");
    for (Fiber& each : fibers) each.state = State::Ready;
    return true;
}

void run_block() {
    for (Fiber& each : fibers) {
        each.state = State::Ready;
        if (getcontext(&each.context) != 0) fail("getcontext");
        each.context.uc_stack.ss_sp = each.stack.get();
        each.context.uc_stack.ss_size = STACK;
        each.context.uc_link = nullptr;
        makecontext(&each.context, enter, 0);
    }
    // Warp by warp, by turns from the first and from the last on: each gets as far ahead of others as the barriers allow.
    bool from_last = false;
    do {
        unsigned warps = (fibers.size() + WARP - 1) / WARP;
        for (unsigned i = 0; i < warps; i++) {
            unsigned first = (from_last ? warps - 1 - i : i) * WARP;
            run_warp(first, min<unsigned>(first + WARP, fibers.size()));
        }
        from_last = !from_last;
    } while (release());
}

}  // namespace

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "emulation of kernel %s, block (%u, %u, %u): %s\n", running, block_index.x, block_index.y,
                 block_index.z, what);
    std::abort();
}

void add_kernel(const char* name, Body kernel) { kernels()[name] = kernel; }
void block_barrier() { wait(State::AtBlockBarrier); }
void warp_barrier() { wait(State::AtWarpBarrier); }
void* warp_slot(unsigned lane) { return &slots[current->linear / WARP * WARP + lane]; }

}  // namespace emulation

using namespace emulation;

// Whether there is such a kernel.
extern "C" int otter_emulation_has(const char* name) { return kernels().count(name) != 0; }

// Runs a kernel to its end. 0, or 1 when there is no such kernel, 2 for a block that no card would take.
extern "C" int otter_emulation_launch(const char* name, const unsigned* grid, const unsigned* block, std::size_t shared,
                                      void** arguments) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    std::size_t threads = std::size_t(block[0]) * block[1] * block[2];
    if (threads == 0 || threads > 1024 || shared > 99 << 10) return 2;
    running = name;
    body = found->second;
    body_arguments = arguments;
    std::vector<unsigned char> memory(shared + 16);
    dynamic_shared = reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 15) / 16 * 16);
    fibers.resize(threads);
    slots.assign((threads + WARP - 1) / WARP * WARP, 0);
    for (unsigned i = 0; i < threads; i++) {
        unsigned x = i % block[0], y = i / block[0] % block[1], z = i / block[0] / block[1];
        fibers[i].thread = {{x, y, z}, i};
        if (!fibers[i].stack) fibers[i].stack.reset(new unsigned char[STACK]);
    }
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                // What was left by the block before must not look like something.
                std::memset(memory.data(), 0xff, memory.size());
                run_block();
            }
    return 0;
}
