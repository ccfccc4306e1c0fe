// Episodes of the default kind of scenario (Bernoulli arrivals, unified physics, stations one after the
// other), as a hand-written loop over vectors of seeds: what a patient author would get from this processor.
// The arithmetic is that of the package's kernel, so its totals are the kernel's. See hand_written.py.

#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace {

#ifndef WIDTH
#define WIDTH 16
#endif
constexpr int W = WIDTH;  // seeds in a vector
constexpr int MAX_TASKS = 256;

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));

struct Scenario {
  int num_tasks, num_slots;
  float slot_duration, arrival_prob, deadline, size_min, size_max, density_min, density_max;
};

struct Key {
  U word0, word1;
};

inline F f(float x) { return F{} + x; }
inline F least(F a, F b) { return a < b ? a : b; }
inline F most(F a, F b) { return a > b ? a : b; }
inline F positive(F x) { return x > 0 ? x : f(1); }

inline U bits(Key key, U counter) {
  U x = counter * 0x9E3779B9u + key.word0;
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15)) + key.word1;
  x = (x ^ (x >> 17)) * 0x735A2D97u;
  return x ^ (x >> 15);
}

inline U rehash(U x) {
  x = (x ^ (x >> 14)) * 0x2C1B3C6Du;
  return x ^ (x >> 12);
}

inline Key fold_in(Key key, uint32_t coordinate) {
  U counter = U{} + 2 * coordinate;
  return {bits(key, counter), bits(key, counter + 1)};
}

inline Key stream(U seed, uint32_t purpose) { return fold_in({seed, rehash(seed + 0x2545F491u)}, purpose); }

inline F unit(U x) { return __builtin_convertvector((I)(x >> 8), F) * 0x1p-24f; }

enum Rule { ALL_SERVERS, LOCAL, RANDCOEDGE, OPTIMAL };

// The sums that a sweep reports; counts are exact in a float within a slot.
enum { TASKS, MISSED, SERVERS, MAKESPAN, RESPONSE, TARDINESS, WORK_IN_TIME, BUSY, NUM_SUMS };

template <int B, Rule R>
void select(const F (&wait)[B], const F (&cost)[B], int b, U draw, I (&in)[B]) {
  for (int i = 0; i < B; ++i) in[i] = R == ALL_SERVERS ? ~I{} : I{} - (i == b);
  if constexpr (R == RANDCOEDGE) {
    I pick = __builtin_convertvector(unit(draw) * float(B), I);
    for (int i = 0; i < B; ++i) in[i] |= pick == i;
  }
  if constexpr (R == OPTIMAL) {
    F low = wait[0], lead[B], rate[B];
    for (int i = 1; i < B; ++i) low = least(low, wait[i]);
    for (int i = 0; i < B; ++i) lead[i] = wait[i] - low, rate[i] = 1 / cost[i], in[i] = ~I{};
    for (int step = 0; step < B; ++step) {
      F above = f(1), below = f(0);
      for (int i = 0; i < B; ++i) above += in[i] ? lead[i] * rate[i] : f(0), below += in[i] ? rate[i] : f(0);
      // The last step compares with the level itself, as the kernel does.
      F level = above / positive(below);
      for (int i = 0; i < B; ++i)
        in[i] = step < B - 1 ? in[i] & (lead[i] * below < above) : (I)(lead[i] < level);
    }
  }
}

template <int B, Rule R>
void block(const Scenario& s, const float* capacity, const float* link_rate, uint32_t first, double* totals) {
  U seed = U{} + first;
  for (int k = 0; k < W; ++k) seed[k] += k;
  Key arrivals = fold_in(stream(seed, 2), 0), policy = fold_in(stream(seed, 3), 0), kinds = stream(seed, 1);
  static thread_local F density[MAX_TASKS];
  for (int n = 0; n < s.num_tasks; ++n)
    density[n] = s.density_min + (s.density_max - s.density_min) * unit(bits(kinds, U{} + n));
  F backlog[B] = {};
  for (int t = 0; t < s.num_slots; ++t) {
    F load[B] = {}, sums[NUM_SUMS] = {};
    Key slot = fold_in(arrivals, t), choice = fold_in(policy, t);
    for (int b = 0; b < B; ++b) {
      Key here = fold_in(slot, b), own = fold_in(choice, b);
      float seconds[B], per_mbit[B];
      for (int i = 0; i < B; ++i) seconds[i] = 1 / capacity[i], per_mbit[i] = i == b ? 0 : 1 / link_rate[b * B + i];
      F link = f(0);
      for (int n = 0; n < s.num_tasks; ++n) {
        U draw = bits(here, U{} + n);
        I present = unit(draw) < s.arrival_prob;
        F size = s.size_min + (s.size_max - s.size_min) * unit(rehash(draw)), work = size * density[n];
        F wait[B], cost[B];
        for (int i = 0; i < B; ++i) {
          wait[i] = (backlog[i] + load[i]) * seconds[i];
          if (i != b) wait[i] += link;
          cost[i] = work * seconds[i] + size * per_mbit[i];
        }
        I in[B];
        select<B, R>(wait, cost, b, R == RANDCOEDGE ? bits(own, U{} + 64 * n) : U{}, in);
        I count = {};
        F low = f(1e30f), finish = f(0), sum = f(0), above = f(1), below = f(0), rate[B], lead[B], share[B];
        for (int i = 0; i < B; ++i) count -= in[i], low = least(low, in[i] ? wait[i] : f(1e30f));
        for (int i = 0; i < B; ++i) {
          rate[i] = in[i] ? 1 / cost[i] : f(0), lead[i] = in[i] ? wait[i] - low : f(0);
          above += lead[i] * rate[i], below += rate[i];
        }
        F level = above / positive(below);
        for (int i = 0; i < B; ++i) share[i] = most((level - lead[i]) * rate[i], f(0)), sum += share[i];
        sum = positive(sum);
        F placed = present ? work : f(0), sent = f(0);
        for (int i = 0; i < B; ++i) {
          share[i] = share[i] / sum;
          finish = most(finish, in[i] ? share[i] * cost[i] + wait[i] : f(0));
          load[i] += share[i] * placed;
          sent += share[i] * per_mbit[i];
        }
        link += sent * (present ? size : f(0));
        link = present & (count >= 2) ? least(link, f(s.slot_duration)) : link;
        I missed = (count == 0) | (finish > s.deadline);
        auto add = [&](int which, F value) { sums[which] += present ? value : f(0); };
        add(TASKS, f(1));
        add(MISSED, missed ? f(1) : f(0));
        add(SERVERS, __builtin_convertvector(count, F));
        add(MAKESPAN, missed ? f(s.deadline) : finish);
        add(RESPONSE, finish);
        add(TARDINESS, most(finish - s.deadline, f(0)));
        add(WORK_IN_TIME, missed ? f(0) : work);
      }
    }
    for (int i = 0; i < B; ++i) {
      F full = backlog[i] + load[i], most_work = f(capacity[i] * s.slot_duration);
      sums[BUSY] += least(full / most_work, f(1));
      backlog[i] = most(full - most_work, f(0));
    }
    for (int j = 0; j < NUM_SUMS; ++j)
      for (int k = 0; k < W; ++k) totals[j] += sums[j][k];
  }
}

template <int B, Rule R>
void all_blocks(const Scenario& s, const float* c, const float* r, int blocks, int threads, double* totals) {
  std::vector<std::thread> pool;
  std::vector<double> each(threads * NUM_SUMS);
  for (int k = 0; k < threads; ++k)
    pool.emplace_back([&, k] {
      double mine[NUM_SUMS] = {};
      for (int i = k; i < blocks; i += threads) block<B, R>(s, c, r, i * W, mine);
      std::memcpy(&each[k * NUM_SUMS], mine, sizeof mine);
    });
  for (auto& thread : pool) thread.join();
  for (size_t k = 0; k < each.size(); ++k) totals[k % NUM_SUMS] += each[k];
}

// Independent chains of operations, as many as hide their latency: divisions, or multiplications, additions
// and integer operations in turn, which the units of a core share as they do in an episode.
template <bool DIVIDE, int... i>
void chains(long rounds, float* sink, std::integer_sequence<int, i...>) {
  F factor = f(*sink), x[] = {f(1 + i)...};  // only with constant indices, or it would not stay in registers
  U mask = (U)factor;
  auto step = [&](F& x, int k) {
    if (DIVIDE) x = x / factor;
    else if (k % 3 == 0) x = x * factor;
    else if (k % 3 == 1) x = x + factor;
    else x = (F)((U)x ^ mask);
    asm volatile("" : "+v"(x));  // neither left out nor merged
  };
  for (long k = 0; k < rounds; ++k) (step(x[i], i), ...);
  F sum = (x[i] + ...);
  *sink = sum[0];
}

}  // namespace

extern "C" {

// The number of operations, or divisions, that all threads make in `rounds`.
double operate(long rounds, int divide, int threads) {
  std::vector<std::thread> pool;
  std::vector<float> sinks(threads * 64, 1.0f);
  for (int k = 0; k < threads; ++k)
    pool.emplace_back([&, k] {
      auto twelve = std::make_integer_sequence<int, 12>{};
      divide ? chains<true>(rounds, &sinks[64 * k], twelve) : chains<false>(rounds, &sinks[64 * k], twelve);
    });
  for (auto& thread : pool) thread.join();
  return 12.0 * W * rounds * threads;
}

int width() { return W; }

// Add the sums of `blocks` vectors of seeds from 0 on to `totals`; 1 if there is no such rule or size.
int play(const Scenario* s, int servers, int rule, const float* c, const float* r, int blocks, int threads,
         double* totals) {
  if (servers != 5 || s->num_tasks > MAX_TASKS) return 1;
  switch (rule) {
    case ALL_SERVERS: all_blocks<5, ALL_SERVERS>(*s, c, r, blocks, threads, totals); return 0;
    case LOCAL: all_blocks<5, LOCAL>(*s, c, r, blocks, threads, totals); return 0;
    case RANDCOEDGE: all_blocks<5, RANDCOEDGE>(*s, c, r, blocks, threads, totals); return 0;
    case OPTIMAL: all_blocks<5, OPTIMAL>(*s, c, r, blocks, threads, totals); return 0;
  }
  return 1;
}

}
