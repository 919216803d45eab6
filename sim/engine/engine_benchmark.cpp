// Benchmarks of the engine: bare events, and one all-to-all of unequal pairwise flows beside
// SimGrid on the same flows (its faster mode of two). Run: build/bench/engine_benchmark

#include <chrono>
#include <cstring>
#include <iostream>
#include <random>

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <simgrid/s4u.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/engine/sharing.h"

namespace rehearse {
namespace {

// Events popped and pushed, `pending` of them waiting at any time: the classic hold model, times
// drawn uniformly.
void events(benchmark::State& state) {
  EventQueue queue;
  std::mt19937_64 random(1);
  std::vector<int64_t> delays(1 << 16);
  for (int64_t& d : delays) d = static_cast<int64_t>(random() % 1'000'000'000);
  for (int64_t i = 0; i < state.range(0); ++i) {
    queue.push(delays[static_cast<size_t>(i) % delays.size()], static_cast<uint64_t>(i));
  }
  size_t next = 0;
  for (auto _ : state) {
    const EventQueue::Event event = queue.pop();
    queue.push(event.time + delays[next++ % delays.size()], event.payload);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(events)->Arg(1000)->Arg(100'000)->Name("events, pending");

struct PairFlow {
  int from, to;
  double bytes;
};

std::vector<PairFlow> pair_flows(int ranks) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> bytes(0.5e6, 1.5e6);
  std::vector<PairFlow> flows;
  for (int i = 0; i < ranks; ++i) {
    for (int j = 0; j < ranks; ++j) {
      if (i != j) flows.push_back({i, j, std::floor(bytes(random))});
    }
  }
  return flows;
}

constexpr double kBandwidth = 50e9;

// The last flow's end, seconds.
double ours(int ranks, const std::vector<PairFlow>& flows) {
  Sharing sharing;
  std::vector<ResourceId> out, in;
  for (int i = 0; i < ranks; ++i) {
    out.push_back(sharing.add_resource(kBandwidth * 1e-12));
    in.push_back(sharing.add_resource(kBandwidth * 1e-12));
  }
  EventQueue queue;
  for (size_t i = 0; i < flows.size(); ++i) {
    const Use uses[] = {{out[static_cast<size_t>(flows[i].from)]},
                        {in[static_cast<size_t>(flows[i].to)]}};
    sharing.start(Duration(), flows[i].bytes, Sharing::kNoBound, uses, i);
  }
  sharing.update(Duration(), queue);
  std::vector<uint64_t> ended;
  int64_t now = 0;
  while (!queue.empty()) {
    const EventQueue::Event event = queue.pop();
    now = event.time;
    ended.clear();
    sharing.finish(event, ended);
    sharing.update(Duration::picoseconds(now), queue);
  }
  return static_cast<double>(now) * 1e-12;
}

void all_to_all(benchmark::State& state) {
  const auto ranks = static_cast<int>(state.range(0));
  const std::vector<PairFlow> flows = pair_flows(ranks);
  for (auto _ : state) benchmark::DoNotOptimize(ours(ranks, flows));
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(flows.size()));
}
BENCHMARK(all_to_all)->Arg(64)->Arg(256)->Unit(benchmark::kMillisecond)->Name("all-to-all, ranks");

enum class Mode { kDirect, kMailboxes };

struct Measured {
  double wall = 0, simulated = 0;
};

// In a process of its own, since there is one SimGrid engine per process. Set-up is not timed.
Measured simgrid_run(int ranks, const std::vector<PairFlow>& flows, Mode mode) {
  int ends[2];
  if (pipe(ends) != 0) return {};
  if (fork() == 0) {
    namespace sg4 = simgrid::s4u;
    int argc = 2;
    char name[] = "simgrid";
    char quiet[] = "--log=root.threshold:error";
    char* argv[] = {name, quiet, nullptr};
    sg4::Engine engine(&argc, argv);
    for (const char* option : {"network/model:CM02",
                               "network/weight-S:0",
                               "network/TCP-gamma:0",
                               "network/crosstraffic:0",
                               "network/latency-factor:1",
                               "network/bandwidth-factor:1"}) {
      sg4::Engine::set_config(option);
    }
    sg4::NetZone* zone = sg4::create_full_zone("zone");
    std::vector<sg4::Host*> hosts;
    std::vector<sg4::Link*> out, in;
    for (int i = 0; i < ranks; ++i) {
      hosts.push_back(zone->create_host(fmt::format("h{}", i), 1e9)->seal());
      out.push_back(zone->create_link(fmt::format("o{}", i), kBandwidth)->set_latency(0)->seal());
      in.push_back(zone->create_link(fmt::format("i{}", i), kBandwidth)->set_latency(0)->seal());
    }
    const auto at = [](const auto& list, int i) { return list[static_cast<size_t>(i)]; };
    for (const PairFlow& f : flows) {
      zone->add_route(at(hosts, f.from)->get_netpoint(),
                      at(hosts, f.to)->get_netpoint(),
                      nullptr,
                      nullptr,
                      {sg4::LinkInRoute(at(out, f.from)), sg4::LinkInRoute(at(in, f.to))},
                      false);
    }
    zone->seal();
    if (mode == Mode::kDirect) {
      sg4::Actor::create("all", hosts[0], [&] {
        std::vector<sg4::CommPtr> comms;
        for (const PairFlow& f : flows) {
          comms.push_back(sg4::Comm::sendto_async(
              at(hosts, f.from), at(hosts, f.to), static_cast<uint64_t>(f.bytes)));
        }
        for (auto& c : comms) c->wait();
      });
    } else {
      static char token;
      const auto box = [](const PairFlow& f) {
        return sg4::Mailbox::by_name(fmt::format("{}-{}", f.from, f.to));
      };
      for (int r = 0; r < ranks; ++r) {
        sg4::Actor::create(fmt::format("r{}", r), at(hosts, r), [&flows, box, r] {
          std::vector<sg4::CommPtr> comms;
          std::vector<void*> got(flows.size());
          for (size_t i = 0; i < flows.size(); ++i) {
            const PairFlow& f = flows[i];
            if (f.from == r)
              comms.push_back(box(f)->put_async(&token, static_cast<uint64_t>(f.bytes)));
            if (f.to == r) comms.push_back(box(f)->get_async<void>(&got[i]));
          }
          for (auto& c : comms) c->wait();
        });
      }
    }
    const auto begin = std::chrono::steady_clock::now();
    engine.run();
    const Measured m{
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
        sg4::Engine::get_clock()};
    const bool written = write(ends[1], &m, sizeof m) == sizeof m;
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  Measured m;
  const bool got = read(ends[0], &m, sizeof m) == sizeof m;
  close(ends[0]);
  int status = 0;
  wait(&status);
  return got ? m : Measured{};
}

// Median of three of each.
void beside_simgrid() {
  constexpr int kRanks = 64;
  const std::vector<PairFlow> flows = pair_flows(kRanks);
  const auto median = [](auto measure) {
    std::vector<Measured> m{measure(), measure(), measure()};
    std::sort(m.begin(), m.end(), [](auto& a, auto& b) { return a.wall < b.wall; });
    return m[1];
  };
  const Measured direct = median([&] { return simgrid_run(kRanks, flows, Mode::kDirect); });
  const Measured boxes = median([&] { return simgrid_run(kRanks, flows, Mode::kMailboxes); });
  std::vector<double> walls;
  double end = 0;
  for (int i = 0; i < 15; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    end = ours(kRanks, flows);
    walls.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(walls.begin(), walls.end());
  const double mine = walls[walls.size() / 2];
  const double best = std::min(direct.wall, boxes.wall);
  std::cout << fmt::format(
      "one all-to-all of {} ranks, {} unequal flows (medians of 3 and 15 runs)\n"
      "  SimGrid, direct     {:8.1f} ms, last flow ends at {:.6f} s\n"
      "  SimGrid, mailboxes  {:8.1f} ms, last flow ends at {:.6f} s\n"
      "  this engine         {:8.1f} ms, last flow ends at {:.6f} s\n"
      "  faster by           {:8.0f} x\n\n",
      kRanks,
      flows.size(),
      direct.wall * 1e3,
      direct.simulated,
      boxes.wall * 1e3,
      boxes.simulated,
      mine * 1e3,
      end,
      best / mine);
}

}  // namespace
}  // namespace rehearse

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  rehearse::beside_simgrid();
  benchmark::RunSpecifiedBenchmarks();
}
