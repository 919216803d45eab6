#include "cli/processes.h"

#include <cstdlib>
#include <exception>
#include <iostream>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "base/errors.h"

#ifdef REHEARSE_HAS_MPI
#include <mpi.h>
#endif

namespace rehearse::cli {
namespace {

// Whether a launcher started several: what OpenMPI, MPICH and Slurm's PMI tell a process.
bool started_as_several() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}) {
    const char* const size = std::getenv(name);
    if (size != nullptr && std::atoll(size) > 1) return true;
  }
  return false;
}

#ifdef REHEARSE_HAS_MPI
std::vector<std::string> gather(const std::string& own) {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int count = static_cast<int>(own.size());
  std::vector<int> counts(static_cast<size_t>(size));
  MPI_Allgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, MPI_COMM_WORLD);
  std::vector<int> begins(counts.size());
  int64_t all = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    begins[i] = static_cast<int>(all);
    all += counts[i];
  }
  if (all > INT32_MAX) throw InputError("the processes' findings are over 2 GB: use fewer");
  std::string joined(static_cast<size_t>(all), '\0');
  MPI_Allgatherv(own.data(),
                 count,
                 MPI_CHAR,
                 joined.data(),
                 counts.data(),
                 begins.data(),
                 MPI_CHAR,
                 MPI_COMM_WORLD);
  std::vector<std::string> parts;
  for (size_t i = 0; i < counts.size(); ++i) {
    parts.push_back(joined.substr(static_cast<size_t>(begins[i]), static_cast<size_t>(counts[i])));
  }
  return parts;
}
#endif

}  // namespace

Processes::Processes() : exceptions_(std::uncaught_exceptions()) {
  if (!started_as_several()) return;
#ifdef REHEARSE_HAS_MPI
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  int here = 1;
  MPI_Comm_size(machine, &here);
  MPI_Comm_free(&machine);
  here_ = here;
  team_ = {.rank = rank, .size = size, .gather = gather};
  if (!first()) silence();
#else
  throw InputError(
      "several processes were started, and this rehearse was built without MPI: install OpenMPI's "
      "headers (libopenmpi-dev) and build again, or run one process");
#endif
}

// What all are asked is wrong for all: one says so.
void Processes::silence() {
  std::cout.flush();
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  for (size_t i = 0; i < kept_.size(); ++i) {
    kept_[i] = ::dup(static_cast<int>(i) + 1);
    ::dup2(nowhere, static_cast<int>(i) + 1);
  }
  ::close(nowhere);
}

void Processes::begin() {
  begun_ = true;
  std::cout.flush();
  for (size_t i = 0; i < kept_.size(); ++i) {
    if (kept_[i] < 0) continue;
    ::dup2(kept_[i], static_cast<int>(i) + 1);
    ::close(std::exchange(kept_[i], -1));
  }
}

Processes::~Processes() {
#ifdef REHEARSE_HAS_MPI
  if (team_.size == 1) return;
  if (begun_ && std::uncaught_exceptions() > exceptions_) MPI_Abort(MPI_COMM_WORLD, 1);
  MPI_Finalize();
#endif
}

}  // namespace rehearse::cli
