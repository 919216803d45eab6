#include "cli/plot.h"

#include <filesystem>

#include <sys/wait.h>
#include <unistd.h>

#include "plan/plan.h"

namespace rehearse::cli {

bool plot(const std::string& script, const std::vector<std::string>& args) {
  // The system's Python first: that is the one which distribution packages serve.
  const std::string system = "/usr/bin/python3";
  const std::string python = std::filesystem::exists(system) ? system : "python3";
  std::vector<std::string> words = {python, share_folder() + "/plots/" + script};
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 1;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

}  // namespace rehearse::cli
