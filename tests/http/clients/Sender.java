import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Base64;

/**
 * Sends requests with the JDK's client and its defaults: lines of method, URL and base64 of the body (-: none) on
 * stdin; lines of status and base64 of the reply's body on stdout.
 */
public class Sender {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split(" ");
            HttpRequest request = HttpRequest.newBuilder(URI.create(parts[1]))
                    .header("Authorization", "Bearer dev-token")
                    .header("Content-Type", "application/json")
                    .method(parts[0], parts[2].equals("-")
                            ? BodyPublishers.noBody()
                            : BodyPublishers.ofByteArray(Base64.getDecoder().decode(parts[2])))
                    .build();
            var reply = client.send(request, BodyHandlers.ofByteArray());
            System.out.println(reply.statusCode() + " " + Base64.getEncoder().encodeToString(reply.body()));
        }
    }
}
