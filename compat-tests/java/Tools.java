import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs the main classes of Kafka's command-line tools, one after the other in one process: a process for each would
 * take longer to start than to run. Each line of the input is a command, of fields in base64 with spaces between:
 * the class, what is typed into it, its arguments. The answer is a line too: the exit code, and what was printed.
 */
public final class Tools {
    /** Stands for the end of the process. A tool may catch it: what it does after that does not count. */
    static final class Ended extends Error {
        Ended(int code) {
            super(null, null, false, false);
            if (exit < 0) {
                exit = code;
                System.out.flush();
                System.err.flush();
                System.setOut(new PrintStream(java.io.OutputStream.nullOutputStream()));
                System.setErr(System.out);
            }
        }
    }

    static final List<Runnable> atEnd = new ArrayList<>();

    /** The exit code of the command that runs, or -1 as long as it runs. */
    static int exit;

    public static void main(String[] unused) throws Exception {
        PrintStream answers = System.out;
        PrintStream errors = System.err;
        InputStream commands = System.in;
        Exit.setExitProcedure((code, message) -> {
            throw new Ended(code);
        });
        Exit.setHaltProcedure((code, message) -> {
            throw new Ended(code);
        });
        Exit.setShutdownHookAdder((name, runnable) -> atEnd.add(runnable));
        for (String line; (line = readLine(commands)) != null; ) {
            String[] fields = Arrays.stream(line.split(" ")).map(Tools::decode).toArray(String[]::new);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            ByteArrayOutputStream err = new ByteArrayOutputStream();
            System.setIn(new ByteArrayInputStream(fields[1].getBytes(StandardCharsets.UTF_8)));
            System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
            System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
            exit = -1;
            int code = run(fields[0], Arrays.copyOfRange(fields, 2, fields.length));
            System.out.flush();
            System.err.flush();
            end();
            System.setOut(answers);
            System.setErr(errors);
            answers.println(code + " " + encode(out.toByteArray()) + " " + encode(err.toByteArray()));
            answers.flush();
        }
    }

    static int run(String name, String[] args) {
        try {
            Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) args);
            return Math.max(exit, 0);
        } catch (InvocationTargetException e) {
            if (exit >= 0) {
                return exit;
            }
            System.err.println(e.getCause());
            return 1;
        } catch (ReflectiveOperationException e) {
            System.err.println(e);
            return 127;
        }
    }

    /** Does what the tool left for the end of its process: a producer sends its last records there. */
    static void end() {
        System.setOut(new PrintStream(java.io.OutputStream.nullOutputStream()));
        System.setErr(System.out);
        for (Runnable hook : atEnd) {
            try {
                hook.run();
            } catch (Ended e) {
                // It was ending already.
            }
        }
        atEnd.clear();
    }

    static String readLine(InputStream in) throws java.io.IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int c; (c = in.read()) != '\n'; ) {
            if (c < 0) {
                return null;
            }
            line.write(c);
        }
        return line.toString(StandardCharsets.UTF_8);
    }

    /** An empty field is a hyphen, which base64 has not. */
    static String decode(String field) {
        return field.equals("-") ? "" : new String(Base64.getDecoder().decode(field), StandardCharsets.UTF_8);
    }

    static String encode(byte[] b) {
        return b.length == 0 ? "-" : Base64.getEncoder().encodeToString(b);
    }
}
