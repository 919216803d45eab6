#pragma once
// Files that pages hold, put into the program when it is built (assets.cpp.in).

#include <string_view>

namespace rehearse::cli {

extern const std::string_view kPageStyle;     // page.css
extern const std::string_view kPageScript;    // page.js
extern const std::string_view kChartLibrary;  // Chart.js, of the package libjs-chart.js

}  // namespace rehearse::cli
