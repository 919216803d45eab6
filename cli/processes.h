#pragma once
// The processes of a job that mpirun or srun started.

#include <array>

#include "search/search.h"

namespace rehearse::cli {

// The team of this process: itself alone where nothing started several. Throws InputError where
// something did and rehearse was built without MPI.
class Processes {
 public:
  Processes();
  ~Processes();  // the others are waited for; or ended, when an exception is on its way
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  const Team& team() const { return team_; }
  bool first() const { return team_.rank == 0; }
  // Of them, on this machine.
  int64_t here() const { return here_; }
  // What all are asked has been read: from here on an exception in one of them ends all.
  void begin();
  // What they share is done: an exception of this one is its own again.
  void end() { begun_ = false; }

 private:
  void silence();

  Team team_;
  int64_t here_ = 1;
  bool begun_ = false;
  int exceptions_ = 0;  // under way when it was made
  std::array<int, 2> kept_{-1,
                           -1};  // standard output and error, of all but the first until begin()
};

}  // namespace rehearse::cli
