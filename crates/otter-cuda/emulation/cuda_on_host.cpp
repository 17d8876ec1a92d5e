// The scheduler of the emulation: see cuda_on_host.h.
#include "cuda_on_host.h"

#include <setjmp.h>
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

// A thread of a block. It outlives its block: at its end it waits, and begins the next one where it stands.
struct Fiber {
    Thread thread;
    State state;
    // Where it begins for the first time, and where it goes on: jumps between stacks cost no call of the system, as changes
    // of contexts do.
    ucontext_t context;
    jmp_buf place;
    std::unique_ptr<unsigned char[]> stack;
};

constexpr std::size_t MOST_THREADS = 1024;

std::map<std::string, Body>& kernels() {
    static std::map<std::string, Body> all;
    return all;
}

std::vector<Fiber> all_fibers(MOST_THREADS);
// Those of the present block, the first of all.
std::size_t threads;
std::vector<unsigned long long> slots;
jmp_buf scheduler;
Body body;
void** body_arguments;
const char* running;

__attribute__((noinline)) void wait(State state) {
    Fiber& self = all_fibers[current->linear];
    self.state = state;
    if (_setjmp(self.place) == 0) _longjmp(scheduler, 1);
}

void enter() {
    while (true) {
        body(body_arguments);
        wait(State::Done);
    }
}

// Lets a thread go on until it waits.
__attribute__((noinline)) void resume(Fiber& fiber) {
    current = &fiber.thread;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.stack) _longjmp(fiber.place, 1);
    fiber.stack.reset(new unsigned char[STACK]);
    if (getcontext(&fiber.context) != 0) fail("getcontext");
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
    setcontext(&fiber.context);
    fail("setcontext");
}

// Runs the threads of a warp to a barrier of the block, or to their end.
void run_warp(unsigned first, unsigned last) {
    while (true) {
        for (unsigned i = first; i < last; i++) {
            if (all_fibers[i].state == State::Ready) resume(all_fibers[i]);
        }
        unsigned waiting = 0;
        for (unsigned i = first; i < last; i++) waiting += all_fibers[i].state == State::AtWarpBarrier;
        if (waiting == 0) return;
        if (waiting != last - first) fail("only some threads of a warp take part in a shuffle, warp barrier or product");
        for (unsigned i = first; i < last; i++) all_fibers[i].state = State::Ready;
    }
}

// Lets the threads go on that stand at the barrier of the block, where all of them do.
bool release() {
    unsigned waiting = 0, done = 0;
    for (std::size_t i = 0; i < threads; i++) {
        waiting += all_fibers[i].state == State::AtBlockBarrier;
        done += all_fibers[i].state == State::Done;
    }
    if (waiting == 0) return false;
    if (done != 0) fail("some threads of a block ended while others wait at a barrier");
    for (std::size_t i = 0; i < threads; i++) all_fibers[i].state = State::Ready;
    return true;
}

void run_block() {
    for (std::size_t i = 0; i < threads; i++) all_fibers[i].state = State::Ready;
    // Warp by warp, by turns from the first and from the last on: each gets as far ahead of others as the barriers allow.
    bool from_last = false;
    do {
        unsigned warps = (threads + WARP - 1) / WARP;
        for (unsigned i = 0; i < warps; i++) {
            unsigned first = (from_last ? warps - 1 - i : i) * WARP;
            run_warp(first, min<unsigned>(first + WARP, threads));
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

// Runs a kernel to its end. 0, or 1 when there is no such kernel, 2 for a block that no GPU would take.
extern "C" int otter_emulation_launch(const char* name, const unsigned* grid, const unsigned* block, std::size_t shared,
                                      void** arguments) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    threads = std::size_t(block[0]) * block[1] * block[2];
    if (threads == 0 || threads > MOST_THREADS || shared > 99 << 10) return 2;
    running = name;
    body = found->second;
    body_arguments = arguments;
    std::vector<unsigned char> memory(shared + 16);
    dynamic_shared = reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 15) / 16 * 16);
    slots.assign((threads + WARP - 1) / WARP * WARP, 0);
    for (unsigned i = 0; i < threads; i++) {
        unsigned x = i % block[0], y = i / block[0] % block[1], z = i / block[0] / block[1];
        all_fibers[i].thread = {{x, y, z}, i};
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
